//! A node whose clock is set back: what it prints then has earlier times than what is stored, and follows it all the same.
//!
//! The clock is this machine's too. So the lines are written to the log's file on the node, where its runtime would have
//! written them; kubelet, API server and manager are real.

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use octopus_tests::stack::Stack;
use octopus_tests::stack::client::until;
use octopus_tests::stack::containers::on_node;
use serde_json::{Value, json};

use crate::functions::{WORK, small, task};
use crate::logs::{numbered, running_hash};

/// Lines that the function prints itself: more than are asked for when the last stored one is looked for first.
const LINES: usize = 150;

/// Lines on the node, at the end of a log.
struct File<'a> {
    stack: &'a Stack,
    path: String,
    printed: String,
}

impl File<'_> {
    /// So many lines, a millisecond apart.
    async fn append(&mut self, first: DateTime<Utc>, lines: usize) {
        let (mut raw, from) = (String::new(), self.printed.lines().count());
        for number in 0..lines {
            let at = first + TimeDelta::milliseconds(i64::try_from(number).unwrap());
            let line = format!("line {}\n", from + number);
            raw += &format!("{} stdout F {line}", at.to_rfc3339_opts(SecondsFormat::Nanos, true));
            self.printed += &line;
        }
        let write = format!("printf %s '{raw}' | tee -a {} > /dev/null", self.path);
        let written = on_node(self.stack.shared, &["sh", "-c", &write]).await;
        assert!(written.is_some(), "{write}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_was_set_back_hides_no_line() {
    let stack = Stack::start("logs-clock").await;
    if on_node(stack.shared, &["true"]).await.is_none() {
        eprintln!("the node is not ours: nothing can be written there");
        return;
    }
    let polls = [("OCTOPUS_FOLLOWED_LOGS", "0")];
    let polling = stack.manager_with(&polls).await;
    stack.client.build("work", WORK, small()).await;
    let steps = ["print", &LINES.to_string(), "sleep", "3600"];
    let process = stack.client.start("work", task(&steps)).await;
    let stored = async |lines: usize, reader: &str| -> Value {
        until("all lines to be stored", 60, async || {
            let shown = stack.client.process(process).await;
            let stream = &shown["log_streams"][0];
            (stream["lines"] == json!(lines) && stream["reader"] == json!(reader)).then_some(shown)
        })
        .await
    };
    let shown = stored(LINES, "poll").await;
    let uid = shown["pods"][0]["uid"].as_str().unwrap();
    let mut file = File {
        stack: &stack,
        path: format!("/var/log/pods/*_{uid}/function/0.log"),
        printed: numbered(LINES),
    };
    let now = Utc::now();
    let before = |seconds| now - TimeDelta::seconds(seconds);
    // The last stored line is among the newest ones.
    file.append(before(60), 30).await;
    stored(LINES + 30, "poll").await;
    // It is not, and they begin earlier: the clock was set forward once more meanwhile.
    file.append(now, 1).await;
    stored(LINES + 31, "poll").await;
    file.append(before(40), 300).await;
    stored(LINES + 331, "poll").await;
    polling.kill().await;

    // Nobody looks while it is set back, and more is printed before somebody does.
    file.append(now, 1).await;
    file.append(before(20), 150).await;
    let following = stack.manager().await;
    stored(LINES + 482, "follow").await;
    // And while it is followed.
    file.append(now, 1).await;
    file.append(before(30), 30).await;
    stored(LINES + 513, "follow").await;
    following.kill().await;

    // It is set back while a log is followed whose reader was far behind.
    let later = Utc::now();
    for second in 0..4 {
        file.append(later + TimeDelta::seconds(second), 1000).await;
    }
    let _following = stack.manager().await;
    stored(LINES + 4513, "follow").await;
    file.append(before(10), 30).await;
    stored(LINES + 4543, "follow").await;
    let kill = stack.client.kill(process, json!({})).await;
    assert_eq!(stack.client.ended(kill, 90).await["state"], "succeeded");
    let gone = until("its log to be sealed", 60, async || {
        let gone = stack.client.process(process).await;
        gone["log_streams"][0]["seal"].is_string().then_some(gone)
    })
    .await;
    assert_eq!(gone["log_streams"][0]["seal"], "complete", "{gone}");
    let log = stack.client.log(process).await;
    assert!(log == file.printed.as_bytes(), "{}", String::from_utf8_lossy(&log));
    assert_eq!(gone["log_streams"][0]["sha256"], json!(running_hash(&log)));
}
