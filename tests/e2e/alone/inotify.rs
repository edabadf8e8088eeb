//! A node that can follow fewer logs than there are, as a node with 128 inotify instances can.

use std::collections::HashMap;
use std::process::Stdio;
use std::time::{Duration, Instant};

use octopus_tests::stack::Stack;
use octopus_tests::stack::client::until;
use octopus_tests::stack::containers::{Containers, on_node};
use serde_json::json;
use uuid::Uuid;

use crate::functions::{WORK, small, task};
use crate::logs::{numbered, running_hash};
use crate::outages::soak;

const LIMIT: &str = "/proc/sys/fs/inotify/max_user_instances";

/// Longer than between two reads of a log that is polled.
const WHILE: Duration = Duration::from_secs(4);

/// The node's limit is lowered, until this is dropped.
struct Lowered {
    node: String,
    before: usize,
}

impl Lowered {
    /// None: the node is not ours, or it is not for us to see what inotify instances there are.
    async fn on(shared: &Containers) -> Option<Self> {
        std::fs::read_dir("/proc/1/fd").ok()?;
        let text = String::from_utf8(on_node(shared, &["cat", LIMIT]).await?).ok()?;
        let node = match &shared.node {
            Some(node) => node.id().to_owned(),
            None => std::env::var("OCTOPUS_NODE_CONTAINER").ok()?,
        };
        Some(Self {
            node,
            before: text.trim().parse().ok()?,
        })
    }

    /// Leaves room for so many more than there are on this machine, whose root and the node's are one to the kernel.
    async fn leave(&self, shared: &Containers, room: usize) {
        let script = format!("echo {} > {LIMIT}", in_use() + room);
        assert!(on_node(shared, &["sh", "-c", &script]).await.is_some(), "{script}");
    }
}

impl Drop for Lowered {
    fn drop(&mut self) {
        let script = format!("echo {} > {LIMIT}", self.before);
        let done = std::process::Command::new("docker")
            .args(["exec", &self.node, "sh", "-c", &script])
            .stdin(Stdio::null())
            .status();
        assert!(done.is_ok_and(|done| done.success()), "{script}");
    }
}

/// Inotify instances of this machine's processes.
fn in_use() -> usize {
    let links = |path: std::path::PathBuf| std::fs::read_dir(path).into_iter().flatten().flatten();
    links("/proc".into())
        .flat_map(|process| links(process.path().join("fd")))
        .filter(|file| std::fs::read_link(file.path()).is_ok_and(|to| to.as_os_str() == "anon_inode:inotify"))
        .count()
}

/// How the log of each process is read.
async fn readers(stack: &Stack, processes: &[Uuid]) -> HashMap<String, usize> {
    let mut readers = HashMap::new();
    for process in processes {
        let shown = stack.client.process(*process).await;
        if let Some(reader) = shown["log_streams"][0]["reader"].as_str() {
            *readers.entry(reader.to_owned()).or_default() += 1;
        }
    }
    readers
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_that_a_node_cannot_follow_are_polled_and_exact() {
    let stack = Stack::alone("inotify").await;
    let Some(lowered) = Lowered::on(stack.shared).await else {
        eprintln!("only root can do this, on a node that is ours: its limit stays");
        return;
    };
    let (number, room) = if soak() { (140, 128) } else { (12, 4) };
    // The manager would follow them all: it is the node that cannot.
    let _manager = stack.manager_with(&[("OCTOPUS_FOLLOWED_LOGS", "1000")]).await;
    stack.client.build("work", WORK, small()).await;
    lowered.leave(stack.shared, room).await;
    let mut processes = Vec::new();
    for _ in 0..number {
        let steps = [
            "print",
            "300",
            "sleep",
            "1",
            "print",
            "300",
            "sleep",
            if soak() { "240" } else { "30" },
        ];
        processes.push(stack.client.start("work", task(&steps)).await);
    }
    // What it refuses is polled for a while, and not asked for again and again.
    let mut since = None;
    let seen = until(
        "as many logs to be followed as the node can, for a while",
        400,
        async || {
            let readers = readers(&stack, &processes).await;
            let of = |reader: &str| readers.get(reader).copied().unwrap_or_default();
            let told = (1..=room).contains(&of("follow")) && of("follow") + of("poll") == number;
            since = told.then(|| since.unwrap_or_else(Instant::now));
            since.is_some_and(|since| since.elapsed() > WHILE).then_some(readers)
        },
    )
    .await;
    println!("{number} logs on a node with room for {room}: {seen:?}");

    let expected = numbered(300).repeat(2);
    for process in &processes {
        let gone = stack.client.shows(*process, "lifecycle", "gone", 600).await;
        assert_eq!(gone["state"], "succeeded", "{gone}");
        let stream = &gone["log_streams"][0];
        assert_eq!(
            (&stream["seal"], &stream["lines"]),
            (&json!("complete"), &json!(600)),
            "{gone}"
        );
        let log = stack.client.log(*process).await;
        assert!(
            log == expected.as_bytes(),
            "the log of {process} is not what was printed"
        );
        assert_eq!(stream["sha256"], json!(running_hash(&log)));
    }
}
