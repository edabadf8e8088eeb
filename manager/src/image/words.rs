//! Splits a shell line into words, for the few lines that need no shell.

/// What ended the reading of a line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotPlain {
    #[error("it holds `{0}`, which only a shell understands")]
    Shell(char),
    #[error("a quote is not closed")]
    OpenQuote,
}

/// The commands of a line joined by `&&` or `;`, each as its words.
///
/// `<` and `>` pass inside a word: people write `pip install numpy>=1.2` without quotes. A shell redirects there, and
/// installs any version; what the author meant is plain. Nothing here is ever given to a shell.
pub(crate) fn commands(line: &str) -> Result<Vec<Vec<String>>, NotPlain> {
    let mut commands = vec![Vec::new()];
    let mut word: Option<String> = None;
    let mut letters = line.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            ' ' | '\t' | '\n' | '\r' | ';' | '&' => {
                if let (Some(word), Some(command)) = (word.take(), commands.last_mut()) {
                    command.push(word);
                }
                if letter == '&' && letters.next_if_eq(&'&').is_none() {
                    return Err(NotPlain::Shell('&'));
                }
                if matches!(letter, ';' | '&' | '\n') {
                    commands.push(Vec::new());
                }
            }
            '\'' | '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match letters.next() {
                        Some(inner) if inner == letter => break,
                        // Inside double quotes a shell still expands these.
                        Some(inner @ ('$' | '`' | '\\')) if letter == '"' => return Err(NotPlain::Shell(inner)),
                        Some(inner) => word.push(inner),
                        None => return Err(NotPlain::OpenQuote),
                    }
                }
            }
            '$' | '`' | '\\' | '|' | '(' | ')' | '{' | '}' => return Err(NotPlain::Shell(letter)),
            '#' | '~' | '<' | '>' if word.is_none() => return Err(NotPlain::Shell(letter)),
            other => word.get_or_insert_default().push(other),
        }
    }
    if let (Some(word), Some(command)) = (word, commands.last_mut()) {
        command.push(word);
    }
    commands.retain(|command| !command.is_empty());
    Ok(commands)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lines_are_split_as_a_shell_would() {
        for (line, expected) in [
            ("pip install a", vec![vec!["pip", "install", "a"]]),
            (
                "  pip  install\t'a b' \"c\"d''  ",
                vec![vec!["pip", "install", "a b", "cd"]],
            ),
            (
                "pip install a&&pip install b ; x",
                vec![vec!["pip", "install", "a"], vec!["pip", "install", "b"], vec!["x"]],
            ),
            ("a\nb", vec![vec!["a"], vec!["b"]]),
            (
                "pip install numpy>=1.2,<2 x!=1 y~=2 z[e]==1.*",
                vec![vec!["pip", "install", "numpy>=1.2,<2", "x!=1", "y~=2", "z[e]==1.*"]],
            ),
            ("a '' b", vec![vec!["a", "", "b"]]),
            ("'$(x)`y`'", vec![vec!["$(x)`y`"]]),
            ("", vec![]),
            ("&& ;", vec![]),
        ] {
            assert_eq!(commands(line).unwrap(), expected, "{line}");
        }
    }

    #[test]
    fn what_needs_a_shell_is_refused() {
        for (line, letter) in [
            ("pip install $(curl x)", '$'),
            ("pip install \"$X\"", '$'),
            ("pip install \"`x`\"", '`'),
            ("pip install a | sh", '|'),
            ("pip install a & rm x", '&'),
            ("pip install a > /dev/null", '>'),
            ("pip install a 2>&1", '&'),
            ("(pip install a)", '('),
            ("pip install ~/x", '~'),
            ("pip install a # why", '#'),
            ("pip install a\\ b", '\\'),
            ("pip install {a,b}", '{'),
        ] {
            assert_eq!(commands(line), Err(NotPlain::Shell(letter)), "{line}");
        }
        assert_eq!(commands("pip install 'a"), Err(NotPlain::OpenQuote));
    }

    proptest! {
        #[test]
        fn no_line_makes_it_panic(line in "(?s).{0,100}") {
            let _ = commands(&line);
        }
    }
}
