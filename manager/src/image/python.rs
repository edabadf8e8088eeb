//! Reads a Python file without running it: what it wants installed, and its `config_str`.

use octopus_shared::function::Entry;
use ruff_python_ast::{Expr, ExprStringLiteral, Stmt};
use ruff_text_size::{Ranged, TextSize};

use super::error::{BuildError, BuildFault, Place};
use super::{entry, nesting};

/// A string constant and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Constant {
    pub(crate) text: String,
    pub(crate) place: Place,
}

/// What a module says about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Module {
    /// The entries of the module-level list `dependencies`.
    pub(crate) dependencies: Vec<Constant>,
    /// The module-level string `config_str`.
    pub(crate) config: Option<Constant>,
    /// How it wants to be run.
    pub(crate) entry: Entry,
}

/// The tree is built, walked and dropped by recursion. With what [`nesting`] lets pass, a debug build's frames fit
/// several times; pages that are not touched cost nothing.
const STACK_BYTES: usize = 256 << 20;

/// Reads a module. `file` is what messages call it.
pub(crate) fn read(source: &str, file: &str) -> Result<Module, BuildError> {
    nesting::check(source, file)?;
    // On a thread of its own for its stack, and because a panic in the parser is then an error and not the end.
    std::thread::scope(|scope| {
        let builder = std::thread::Builder::new()
            .name("python-parser".into())
            .stack_size(STACK_BYTES);
        let parsing = builder.spawn_scoped(scope, || parse(source, file));
        let parsing = parsing.map_err(|error| BuildError::machine("no thread for the Python parser", error))?;
        parsing.join().unwrap_or_else(|_| {
            let problem = format!("{file} cannot be read as Python: the parser gave up");
            Err(BuildError::new(
                BuildFault::InvalidPython,
                problem,
                "Write the file in a plainer way.",
            ))
        })
    })
}

fn parse(source: &str, file: &str) -> Result<Module, BuildError> {
    let lines = Lines { source, file };
    let module = ruff_python_parser::parse_module(source).map_err(|error| {
        let (place, column) = lines.at(error.location.start());
        let problem = format!("column {column}: this is not valid Python: {}", error.error);
        BuildError::new(
            BuildFault::InvalidPython,
            problem,
            "Run the file through `python3 -m py_compile`.",
        )
        .at(&place)
    })?;
    let mut found = Module {
        entry: entry::find(module.suite()),
        ..Module::default()
    };
    for statement in module.suite() {
        let (name, value, adds) = match statement {
            Stmt::Assign(assign) => match assign.targets.as_slice() {
                [Expr::Name(name)] => (name.id.as_str(), Some(assign.value.as_ref()), false),
                _ => continue,
            },
            Stmt::AnnAssign(assign) => match assign.target.as_ref() {
                Expr::Name(name) => (name.id.as_str(), assign.value.as_deref(), false),
                _ => continue,
            },
            Stmt::AugAssign(assign) => match assign.target.as_ref() {
                Expr::Name(name) => (name.id.as_str(), Some(assign.value.as_ref()), true),
                _ => continue,
            },
            _ => continue,
        };
        match (name, value) {
            // As in Python, the last assignment holds.
            ("dependencies", Some(value)) => {
                if !adds {
                    found.dependencies.clear();
                }
                found.dependencies.extend(strings(value, &lines)?);
            }
            ("config_str", Some(value)) => found.config = Some(config(value, adds, &lines)?),
            _ => {}
        }
    }
    Ok(found)
}

fn strings(value: &Expr, lines: &Lines<'_>) -> Result<Vec<Constant>, BuildError> {
    let elements = match value {
        Expr::List(list) => list.elts.as_slice(),
        Expr::Tuple(tuple) => tuple.elts.as_slice(),
        other => {
            return Err(not_constant(
                "`dependencies` is not a list of string constants",
                other,
                lines,
            ));
        }
    };
    elements
        .iter()
        .map(|element| match element {
            Expr::StringLiteral(literal) => Ok(constant(literal, lines)),
            other => Err(not_constant(
                "this entry of `dependencies` is not a string constant",
                other,
                lines,
            )),
        })
        .collect()
}

fn config(value: &Expr, adds: bool, lines: &Lines<'_>) -> Result<Constant, BuildError> {
    match value {
        Expr::StringLiteral(literal) if !adds => Ok(constant(literal, lines)),
        other => Err(not_constant("`config_str` is not a string constant", other, lines)),
    }
}

fn constant(literal: &ExprStringLiteral, lines: &Lines<'_>) -> Constant {
    Constant {
        text: literal.value.to_str().to_owned(),
        place: lines.at(literal.range().start()).0,
    }
}

fn not_constant(problem: &str, value: &Expr, lines: &Lines<'_>) -> BuildError {
    let remedy = "The file is read without being run: write plain strings, without f-strings, calls or variables.";
    BuildError::new(BuildFault::InvalidConfig, problem, remedy).at(&lines.at(value.range().start()).0)
}

/// Turns offsets into places.
pub(super) struct Lines<'a> {
    pub(super) source: &'a str,
    pub(super) file: &'a str,
}

impl Lines<'_> {
    /// The line, and the column in characters, both from 1.
    pub(super) fn at(&self, offset: TextSize) -> (Place, usize) {
        let before = self.source.get(..offset.to_usize()).unwrap_or(self.source);
        let line = before.rsplit(['\n', '\r']).next().unwrap_or_default();
        (Place::new(self.file, line_breaks(before) + 1), line.chars().count() + 1)
    }
}

/// As Python counts them: `\n`, `\r\n` and `\r` are one each.
pub(super) fn line_breaks(text: &str) -> usize {
    text.matches(['\n', '\r']).count() - text.matches("\r\n").count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(source: &str) -> Vec<(String, usize)> {
        let module = read(source, "function.py").unwrap();
        module
            .dependencies
            .into_iter()
            .map(|constant| (constant.text, constant.place.line))
            .collect()
    }

    #[test]
    fn dependencies_are_found_without_running() {
        let source = "import os\n\ndependencies = [\n    'pip install -q a',\n    \"pip install \"\n    'b',\n]\n\
                      for d in dependencies:\n    os.system(d)\n";
        assert_eq!(
            texts(source),
            [("pip install -q a".into(), 4), ("pip install b".into(), 5)]
        );
        assert_eq!(
            texts("dependencies: tuple[str, ...] = ('a', 'b')"),
            [("a".into(), 1), ("b".into(), 1)]
        );
        assert_eq!(
            texts("dependencies = ['a']\ndependencies += ['b']"),
            [("a".into(), 1), ("b".into(), 2)]
        );
        assert_eq!(texts("dependencies = ['a']\ndependencies = []"), []);
        assert_eq!(texts("dependencies: list[str]"), []);
        assert_eq!(
            texts("if True:\n    dependencies = ['not at module level']\nx.dependencies = ['a']"),
            []
        );
        assert_eq!(texts("\u{feff}dependencies = [r'a\\b']"), [("a\\b".into(), 1)]);
    }

    #[test]
    fn config_is_found_with_its_line() {
        let module = read("x = 1\nconfig_str = '''\n{}\n'''\n", "main.py").unwrap();
        let config = module.config.unwrap();
        assert_eq!(
            (config.text.as_str(), config.place),
            ("\n{}\n", Place::new("main.py", 2))
        );
    }

    #[test]
    fn lines_are_counted_as_python_does() {
        for (source, line) in [
            ("x = 1\r\nconfig_str = ''", 2),
            ("x = 1\rconfig_str = ''", 2),
            ("'''\r\r\n'''\nconfig_str = ''", 4),
        ] {
            let config = read(source, "main.py").unwrap().config.unwrap();
            assert_eq!(config.place.line, line, "{source:?}");
        }
    }

    #[test]
    fn what_is_not_constant_is_refused_with_its_line() {
        for (source, line) in [
            ("\ndependencies = ['a', f'pip install {x}']", 2),
            ("dependencies = [\n  'a',\n  b'pip'\n]", 3),
            ("dependencies = load()", 1),
            ("dependencies = ['a'] + ['b']", 1),
            ("config_str = json.dumps({})", 1),
            ("config_str = ''\n\nconfig_str += 'a'", 3),
        ] {
            let error = read(source, "function.py").unwrap_err();
            assert_eq!(error.fault, BuildFault::InvalidConfig);
            assert_eq!(error.place.unwrap().line, line, "{source}");
        }
    }

    #[test]
    fn invalid_python_is_named_with_line_and_column() {
        let error = read("x = 1\ny = = 2\n", "function.py").unwrap_err();
        assert_eq!(error.fault, BuildFault::InvalidPython);
        assert!(
            error
                .to_string()
                .starts_with("line 2 of function.py: column 5: this is not valid Python:"),
            "{error}"
        );
        for bad in ["def f(:\n", "'''", "if True:\nx = 1", "x = '\n", "print 'x'"] {
            assert_eq!(
                read(bad, "function.py").unwrap_err().fault,
                BuildFault::InvalidPython,
                "{bad}"
            );
        }
    }
}
