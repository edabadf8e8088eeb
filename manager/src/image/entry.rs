//! How a function wants to be run, found in its source: the routes that set it up and tell its health, and whether it
//! expects its address as arguments, as octopus_server's rewriting makes it.

use octopus_shared::function::Entry;
use ruff_python_ast::visitor::{Visitor, walk_expr, walk_stmt};
use ruff_python_ast::{Arguments, Expr, ExprCall, Stmt};

/// Looks through a whole module.
pub(crate) fn find(module: &[Stmt]) -> Entry {
    let mut finder = Finder::default();
    finder.visit_body(module);
    Entry {
        set_up: finder.set_up,
        health: finder.health,
        takes_address: finder.host && finder.port,
    }
}

#[derive(Default)]
struct Finder {
    set_up: Option<String>,
    health: Option<String>,
    host: bool,
    port: bool,
}

impl<'a> Visitor<'a> for Finder {
    fn visit_stmt(&mut self, statement: &'a Stmt) {
        if let Stmt::FunctionDef(function) = statement {
            let calls = function
                .decorator_list
                .iter()
                .filter_map(|decorator| decorator.expression.as_call_expr());
            calls.for_each(|call| self.route(call));
        }
        walk_stmt(self, statement);
    }

    fn visit_expr(&mut self, expression: &'a Expr) {
        match expression {
            Expr::StringLiteral(literal) => match literal.value.to_str() {
                "--host" => self.host = true,
                "--port" => self.port = true,
                _ => {}
            },
            Expr::Call(call) if method(call) == Some("add_url_rule") => self.route(call),
            _ => {}
        }
        walk_expr(self, expression);
    }
}

impl Finder {
    /// `@app.route("/v1/setup", methods=["POST"])`, `@app.post("/setup")`, `app.add_url_rule("/setup", ...)`.
    fn route(&mut self, call: &ExprCall) {
        let (Some(method), Some(path)) = (method(call), path(&call.arguments)) else {
            return;
        };
        let takes = |verb: &str| match method {
            "route" | "add_url_rule" => methods(&call.arguments, verb),
            other => other.eq_ignore_ascii_case(verb),
        };
        if is_path(path) && path.ends_with("/setup") && takes("POST") {
            self.set_up.get_or_insert_with(|| path.to_owned());
        } else if is_path(path) && path.ends_with("/health-check") && takes("GET") {
            self.health.get_or_insert_with(|| path.to_owned());
        }
    }
}

fn method(call: &ExprCall) -> Option<&str> {
    call.func.as_attribute_expr().map(|attribute| attribute.attr.as_str())
}

fn path(arguments: &Arguments) -> Option<&str> {
    let first = arguments.args.first().or_else(|| keyword(arguments, "rule"))?;
    Some(first.as_string_literal_expr()?.value.to_str())
}

/// Whether the list of a route's methods holds one. Flask's own default is GET alone.
fn methods(arguments: &Arguments, verb: &str) -> bool {
    let elements = match keyword(arguments, "methods") {
        None => return verb == "GET",
        Some(Expr::List(list)) => &list.elts,
        Some(Expr::Tuple(tuple)) => &tuple.elts,
        Some(Expr::Set(set)) => &set.elts,
        Some(_) => return false,
    };
    let literals = elements.iter().filter_map(|element| element.as_string_literal_expr());
    literals
        .into_iter()
        .any(|literal| literal.value.to_str().eq_ignore_ascii_case(verb))
}

fn keyword<'a>(arguments: &'a Arguments, name: &str) -> Option<&'a Expr> {
    let named = arguments
        .keywords
        .iter()
        .find(|keyword| keyword.arg.as_ref().is_some_and(|arg| arg.as_str() == name));
    named.map(|keyword| &keyword.value)
}

/// A plain path: it becomes a part of a probe and of an argument.
fn is_path(path: &str) -> bool {
    path.len() <= 200
        && path.starts_with('/')
        && path.bytes().all(|c| c.is_ascii_alphanumeric() || b"/-_.".contains(&c))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(source: &str) -> (Option<String>, Option<String>, bool) {
        let module = ruff_python_parser::parse_module(source).unwrap();
        let entry = find(module.suite());
        (entry.set_up, entry.health, entry.takes_address)
    }

    #[test]
    fn routes_are_found_in_every_form() {
        let set_up = |path: &str| (Some(path.to_owned()), None, false);
        let health = |path: &str| (None, Some(path.to_owned()), false);
        for (source, expected) in [
            (
                "@app.route('/v1/setup', methods=['POST'])\ndef f(): pass",
                set_up("/v1/setup"),
            ),
            (
                "@app.route(\"/setup\", methods=(\"GET\", \"post\"))\ndef f(): pass",
                set_up("/setup"),
            ),
            ("@app.post('/v1/setup')\nasync def f(): pass", set_up("/v1/setup")),
            (
                "app.add_url_rule('/v1/setup', view_func=f, methods=['POST'])",
                set_up("/v1/setup"),
            ),
            (
                "if True:\n  @bp.post('/v1/setup')\n  def f(): pass",
                set_up("/v1/setup"),
            ),
            (
                "@app.route('/v1/health-check')\ndef f(): pass",
                health("/v1/health-check"),
            ),
            ("@app.get('/health-check')\ndef f(): pass", health("/health-check")),
            ("@app.route('/v1/setup')\ndef f(): pass", (None, None, false)),
            ("@app.get('/v1/setup')\ndef f(): pass", (None, None, false)),
            ("@app.post('/v1/<name>/setup')\ndef f(): pass", (None, None, false)),
            ("@app.post(f'/v1/setup')\ndef f(): pass", (None, None, false)),
            ("@setup\ndef f(): pass\nx = '/v1/setup'", (None, None, false)),
            ("", (None, None, false)),
        ] {
            assert_eq!(found(source), expected, "{source}");
        }
    }

    #[test]
    fn a_rewritten_file_takes_its_address() {
        let source = "p.add_argument('--host')\np.add_argument('-p', '--port', type=int)";
        assert!(found(source).2);
        assert!(!found("p.add_argument('--port')").2);
    }
}
