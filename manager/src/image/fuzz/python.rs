use proptest::prelude::*;
use proptest::sample::select;

use crate::image::python::{Module, line_breaks, read};

const FILE: &str = "function.py";

fn name() -> impl Strategy<Value = String> {
    select(vec![
        "dependencies",
        "config_str",
        "app",
        "x",
        "é",
        "match",
        "type",
        "_",
    ])
    .prop_map(str::to_owned)
}

fn leaf() -> impl Strategy<Value = String> {
    let literals = select(vec![
        "0",
        "1_0.e-3j",
        "0xff",
        "None",
        "...",
        "b'\\xff'",
        "'''\n'''",
        "f'{x!r:>{x}}'",
        "rb'\\'",
        "t'{x}'",
        "'\\N{BULLET}'",
        "'\\ud800'",
        "'/v1/setup'",
        "'--host'",
        "'POST'",
        "'a' 'b'",
        "u''",
        "'\\\n'",
    ]);
    prop_oneof![literals.prop_map(str::to_owned), name(), "'[^'\\\\\n]{0,6}'"]
}

fn expression() -> impl Strategy<Value = String> {
    leaf().prop_recursive(5, 40, 3, |inner| {
        let many = prop::collection::vec(inner.clone(), 0..4).prop_map(|parts| parts.join(", "));
        let forms = select(vec![
            "(A)",
            "[A]",
            "{A}",
            "f(A)",
            "{**x, 'k': (A)}",
            "x[(A):]",
            "lambda x, /, *, y=(A): x",
            "not (A)",
            "(A) if x else (A)",
            "[x async for x in (A) if x]",
            "{x: y for x in (A)}",
            "(y := (A))",
            "-(A) ** ~x",
            "f'{(A)}'",
            "f\"{(A)!s:{x}}\"",
            "(yield (A))",
            "(await (A))",
            "f(*(A), **x)",
            "x.y.z(A)",
            "(A) < x is not y",
            "app.add_url_rule('/setup', methods=(A))",
        ]);
        (forms, many).prop_map(|(form, parts)| form.replace('A', &parts))
    })
}

fn statement() -> impl Strategy<Value = String> {
    let forms = select(vec![
        "N = E",
        "N: list[str] = E",
        "N += E",
        "N, x = E",
        "N = x = E",
        "del N",
        "type N = E",
        "global N",
        "E",
        "from . import N",
        "assert E, E",
        "@app.post('/v1/setup')\ndef f(): return E",
        "@app.route('/health-check', methods=E)\nasync def f(): pass",
        "class N(E, metaclass=x): x: int = 1",
        "if E:\n  N = E\nelse:\n\tpass",
        "try:\n  N = 1\nexcept* E as x:\n  raise E from x\nfinally: pass",
        "with (E as x, E): pass",
        "match E:\n  case {'k': [x, *_], **y} if E: pass\n  case N(): pass",
        "while E: break",
        "for N in E: continue",
        "# comment \\",
        "\\",
        "\u{c}",
        "\u{feff}",
        "return E",
    ]);
    (forms, name(), expression()).prop_map(|(form, name, expression)| {
        let parts: Vec<_> = form.split('N').collect();
        parts.join(&name).replace('E', &expression)
    })
}

/// Lines that are mostly valid, with one odd piece somewhere: cut off, doubled, or nested very deeply.
fn source() -> impl Strategy<Value = String> {
    let odd = prop_oneof![
        4 => Just(String::new()),
        1 => ".{1,3}",
        1 => (select(vec!["(", "[x, ", "{", "f'{", "not ", "-", "x.", "1+", "if x:\n ", "lambda: ", "'", "\"\"\""]), 1_usize..400)
            .prop_map(|(piece, times)| piece.repeat(times)),
    ];
    let statements = prop::collection::vec(statement(), 0..6);
    (
        statements,
        odd,
        any::<prop::sample::Index>(),
        select(vec!["\n", "\r\n", "; ", "\r"]),
    )
        .prop_map(|(statements, odd, at, end)| {
            let mut source = statements.join(end);
            let places: Vec<_> = (0..=source.len()).filter(|at| source.is_char_boundary(*at)).collect();
            source.insert_str(*at.get(&places), &odd);
            source
        })
}

/// A string constant of which every character is escaped, so that what has to come back is known.
fn written(text: &str) -> String {
    let escaped: String = text
        .chars()
        .map(|letter| format!("\\U{:08x}", u32::from(letter)))
        .collect();
    format!("'{escaped}'")
}

fn texts(module: &Module) -> Vec<&str> {
    module
        .dependencies
        .iter()
        .map(|constant| constant.text.as_str())
        .collect()
}

proptest! {
    #[test]
    fn whatever_is_written_is_read_or_refused_with_its_line(source in source()) {
        let lines = line_breaks(&source) + 1;
        match read(&source, FILE) {
            Ok(module) => {
                let held: usize = texts(&module).iter().map(|text| text.len()).sum();
                // `\N{...}`, the only escape that could be shorter than what it stands for, never is.
                prop_assert!(held <= source.len());
                prop_assert!(module.dependencies.iter().all(|constant| (1..=lines).contains(&constant.place.line)));
                for path in [module.entry.set_up, module.entry.health].into_iter().flatten() {
                    prop_assert!(path.starts_with('/') && path.len() <= 200 && source.contains(&path));
                }
            }
            Err(error) => {
                // The words of a panic that was caught.
                prop_assert!(!error.problem.contains("gave up"), "{error}");
                prop_assert!(!error.remedy.is_empty() && error.problem.len() < 1_000, "{error}");
                prop_assert!(error.place.is_some_and(|place| (1..=lines).contains(&place.line)));
            }
        }
    }

    #[test]
    fn constants_come_back_as_they_were_written(
        wanted in prop::collection::vec(any::<String>(), 0..5),
        config in any::<String>(),
        tuple in any::<bool>(),
        before in expression(),
    ) {
        let list: String = wanted.iter().map(|text| written(text) + ",\n").collect();
        let list = if tuple { format!("({list})") } else { format!("[{list}]") };
        let named = format!("dependencies = {list}\nconfig_str = {}\n", written(&config));
        let alone = read(&named, FILE).unwrap();
        prop_assert_eq!(texts(&alone), wanted);
        prop_assert_eq!(&alone.config.as_ref().unwrap().text, &config);
        // What stands before may be no valid Python; where it is, it changes nothing.
        if let Ok(module) = read(&format!("def f():\n  x = ({before})\n{named}"), FILE) {
            prop_assert_eq!(texts(&module), texts(&alone));
        }
    }
}
