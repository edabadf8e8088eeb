//! Refuses Python that is nested deeper than anybody writes, before the recursive parser sees it.
//!
//! A tree as deep as the file is long would need gigabytes of stack to parse and to drop. CPython has such limits
//! itself: 200 open brackets, 100 indentations.

use ruff_python_ast::token::TokenKind;
use ruff_python_parser::{Mode, lexer};

use super::error::{BuildError, BuildFault, Place};

/// CPython's MAXLEVEL.
const MAX_BRACKETS: usize = 200;
/// CPython's MAXINDENT.
const MAX_INDENTS: usize = 100;
/// Tokens in a row that each open a level: `not not not x`. Nobody writes ten.
const MAX_PREFIXES: usize = 100;
/// Keywords and powers in one statement, each of which may open a level: `a if b else c if d else e ...`. A big
/// table of lambdas stays below it.
const MAX_OPENINGS: usize = 5_000;
/// Tokens in one file, which bound how long a chain such as `a.b.c` or `1 + 2 + 3` may be. Half a megabyte of code has
/// some 150,000; a string counts once, whatever its length.
const MAX_TOKENS: usize = 500_000;

/// Passes over the tokens, without recursion.
pub(crate) fn check(source: &str, file: &str) -> Result<(), BuildError> {
    let mut lexer = lexer::lex(source, Mode::Module);
    let (mut tokens, mut line) = (0_usize, 1);
    let (mut brackets, mut indents, mut prefixes, mut openings) = (0_usize, 0_usize, 0_usize, 0_usize);
    loop {
        let kind = lexer.next_token();
        tokens += 1;
        match kind {
            TokenKind::EndOfFile => return Ok(()),
            TokenKind::Lpar
            | TokenKind::Lsqb
            | TokenKind::Lbrace
            | TokenKind::FStringStart
            | TokenKind::TStringStart => {
                brackets += 1;
            }
            TokenKind::Rpar | TokenKind::Rsqb | TokenKind::Rbrace | TokenKind::FStringEnd | TokenKind::TStringEnd => {
                brackets = brackets.saturating_sub(1);
            }
            TokenKind::Indent => indents += 1,
            TokenKind::Dedent => indents = indents.saturating_sub(1),
            TokenKind::Newline => {
                line += 1;
                openings = 0;
            }
            TokenKind::NonLogicalNewline => line += 1,
            TokenKind::DoubleStar => openings += 1,
            _ if kind.is_keyword() && !kind.is_singleton() => openings += 1,
            _ => {}
        }
        let prefix = matches!(
            kind,
            TokenKind::Not
                | TokenKind::Minus
                | TokenKind::Plus
                | TokenKind::Tilde
                | TokenKind::Star
                | TokenKind::DoubleStar
        ) || matches!(
            kind,
            TokenKind::Await | TokenKind::Lambda | TokenKind::Colon | TokenKind::Yield | TokenKind::At
        );
        prefixes = if prefix { prefixes + 1 } else { 0 };

        let limit = [
            (brackets > MAX_BRACKETS, "brackets are nested too deep"),
            (indents > MAX_INDENTS, "blocks are nested too deep"),
            (
                prefixes > MAX_PREFIXES || openings > MAX_OPENINGS,
                "this statement is nested too deep",
            ),
            (tokens > MAX_TOKENS, "the file is too long for a function's code"),
        ];
        if let Some((_, problem)) = limit.into_iter().find(|(reached, _)| *reached) {
            // A string over several lines is one token, so that the line is the least that it can be.
            let remedy = "Write it in a plainer way; data belongs into a file of its own.";
            return Err(BuildError::new(BuildFault::InvalidPython, problem, remedy).at(&Place::new(file, line)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::python;
    use super::*;

    #[test]
    fn deep_nesting_is_an_error_and_no_crash() {
        let many = 1_000_000;
        for source in [
            "(".repeat(many),
            format!("x = {}{}", "(".repeat(many), ")".repeat(many)),
            format!("x = {}1{}", "[".repeat(250), "]".repeat(250)),
            format!("x = {}1", "not ".repeat(many)),
            format!("x = {}1", "-".repeat(many)),
            format!("x = {}1", "lambda:".repeat(many)),
            format!("x = {}1", "1 if 1 else ".repeat(20_000)),
            format!("x = {}1", "lambda a:".repeat(20_000)),
            format!("x = {}1", "1**".repeat(20_000)),
            format!("x = {}", "f'{".repeat(many)),
            format!("x = {}", "f\"{x:{".repeat(many)),
            format!("x = {}", "{1:".repeat(many)),
            (0..200)
                .map(|depth| format!("{}if 1:\n", " ".repeat(depth)))
                .collect::<String>(),
            "if 1: ".repeat(20_000),
            "class A: ".repeat(20_000),
            "match ".repeat(20_000),
            format!("x{}", ".a".repeat(many)),
            format!("x = 1{}", "+1".repeat(many)),
        ] {
            let shown: String = source.chars().take(20).collect();
            assert_eq!(
                python::read(&source, "function.py").unwrap_err().fault,
                BuildFault::InvalidPython,
                "{shown}"
            );
        }
    }

    #[test]
    fn the_deepest_that_passes_fits_the_stack() {
        for source in [
            format!("x = {}1{}", "[".repeat(190), "]".repeat(190)),
            format!("x = {}1", "not ".repeat(90)),
            format!("x = {}1", "1 if 1 else ".repeat(2_400)),
            format!("x = {}1", "lambda a:".repeat(4_900)),
            format!("x = {}1", "1**".repeat(4_900)),
            format!("x{}", ".a".repeat(249_000)),
            format!("x = 1{}", "+1".repeat(249_000)),
            format!("x{}", "()".repeat(160_000)),
            format!("x{}", "[0]".repeat(160_000)),
            format!("x = {}", "-1,".repeat(160_000)),
            (0..100)
                .map(|depth| format!("{}if 1:\n", " ".repeat(depth)))
                .collect::<String>()
                + &" ".repeat(100)
                + "x=1",
        ] {
            let shown: String = source.chars().take(20).collect();
            assert!(
                python::read(&source, "function.py").is_ok(),
                "{shown}: {:?}",
                python::read(&source, "function.py")
            );
        }
    }

    #[test]
    fn big_data_is_no_nesting() {
        let table = format!("x = [{}]", "-1.5, +2, 'a', True, None,\n".repeat(20_000));
        let text = format!("x = '''{}'''", "((((\n".repeat(100_000));
        for source in [table, text] {
            assert!(check(&source, "function.py").is_ok());
        }
    }
}
