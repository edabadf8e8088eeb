//! Functions that the tests run.

use serde_json::{Value, json};

/// An octopus-format Flask function, as users write them.
pub(crate) const HELLO: &str = include_str!("functions/hello.py");
/// A service that costs a node little to start: where many do that are not what is tested.
pub(crate) const PLAIN: &str = include_str!("functions/plain.py");
/// A task that does what its arguments say: `print COUNT`, `exit CODE`, `signal NUMBER`, `sleep SECONDS`, in order.
pub(crate) const WORK: &str = include_str!("functions/work.py");
/// A task that takes too much of what its argument names, calls a neighbour again and again, or looks what it reaches.
pub(crate) const HOG: &str = include_str!("functions/hog.py");
/// A task that prints much, or oddly.
pub(crate) const TALK: &str = include_str!("functions/talk.py");
/// A service that answers the question for its health twice, and is ill from then on.
pub(crate) const SICK: &str = include_str!("functions/sick.py");
/// A task that calls a URL inside of the cluster and prints the answer.
pub(crate) const CALL: &str = include_str!("../functions/call.py");

/// Settings of a function of which many run at once on a small node.
pub(crate) fn small() -> Value {
    json!({
        "stop_grace_seconds": 2,
        "resources": {"cpu_request": "2m", "cpu": "1", "memory": "64Mi", "ephemeral_storage": "64Mi"},
    })
}

/// A task with arguments.
pub(crate) fn task(arguments: &[&str]) -> Value {
    json!({"kind": "task", "args": arguments})
}
