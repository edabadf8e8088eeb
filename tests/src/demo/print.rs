//! Lines for people, each with the seconds since the beginning.

use std::fmt::Display;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use tokio::time::{interval_at, timeout};

use crate::failure::Failure;

/// Between two signs of life while something long is waited for.
const SIGN_OF_LIFE: Duration = Duration::from_secs(5);

const BOLD: &str = "1";
const DIM: &str = "2";
const RED: &str = "31";
const GREEN: &str = "32";

/// Standard output. Coloured only where a person looks at it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Out {
    started: Instant,
    coloured: bool,
}

impl Out {
    pub(crate) fn new() -> Self {
        let coloured = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self {
            started: Instant::now(),
            coloured,
        }
    }

    /// Begins everything.
    pub(crate) fn title(&self, text: &str) {
        self.line(BOLD, "", text);
    }

    /// Begins a step.
    pub(crate) fn step(&self, number: usize, of: usize, text: &str) {
        self.line(BOLD, "", &format!("STEP {number} of {of}: {text}"));
    }

    /// Something that the demo does or saw.
    pub(crate) fn say(&self, text: impl Display) {
        self.line("", "  ", &text.to_string());
    }

    /// Words of others: log lines, manifests, messages.
    pub(crate) fn quote(&self, text: &str) {
        self.line(DIM, "    | ", text);
    }

    /// A step was seen.
    pub(crate) fn seen(&self, text: &str) {
        self.line(GREEN, "  ", text);
    }

    /// The end of everything that failed.
    pub(crate) fn failure(&self, failure: &Failure) {
        self.line(RED, "", &format!("FAILED: {}", failure.what));
        self.line(RED, "", &format!("What to look at: {}", failure.look));
    }

    /// Waits for work, with signs of life, but not for ever.
    pub(crate) async fn patiently<T>(
        &self,
        limit: Duration,
        awaited: &str,
        look: &str,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let started = tokio::time::Instant::now();
        let mut signs = interval_at(started + SIGN_OF_LIFE, SIGN_OF_LIFE);
        let work = within(limit, awaited, look, work);
        tokio::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return done,
                _ = signs.tick() => self.say(format!("... waiting for {awaited}, {} s by now", started.elapsed().as_secs())),
            }
        }
    }

    fn line(&self, colour: &str, indent: &str, text: &str) {
        let seconds = self.started.elapsed().as_secs_f64();
        let text = plain(text);
        let line = match (self.coloured, colour) {
            (false, _) | (_, "") => format!("[{seconds:6.1} s] {indent}{text}\n"),
            _ => format!("[{seconds:6.1} s] {indent}\x1b[{colour}m{text}\x1b[0m\n"),
        };
        // A reader that has left does not end the job.
        let _ = std::io::stdout().write_all(line.as_bytes());
    }
}

/// Waits for work, but not for ever.
pub(crate) async fn within<T>(
    limit: Duration,
    awaited: &str,
    look: &str,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let late = |_| {
        Err(Failure::new(
            format!("waited {} s for {awaited}, in vain", limit.as_secs()),
            look,
        ))
    };
    timeout(limit, work).await.unwrap_or_else(late)
}

/// Text that cannot steer the terminal: without escape sequences, as Flask prints them, and other control characters.
pub(crate) fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\u{1b}' if characters.next_if_eq(&'[').is_some() => {
                // Parameters, then one final character.
                while characters.next_if(|c| (' '..='?').contains(c)).is_some() {}
                characters.next();
            }
            '\t' => plain.push('\t'),
            control if control.is_control() => plain.push('\u{fffd}'),
            printable => plain.push(printable),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_steers_the_terminal() {
        assert_eq!(plain("\u{1b}[35m\u{1b}[1mPOST\u{1b}[0m 201\t-"), "POST 201\t-");
        assert_eq!(
            plain("a\u{1b}]0;title\u{7}b\u{9b}1mé"),
            "a\u{fffd}]0;title\u{fffd}b\u{fffd}1mé"
        );
        assert_eq!(plain("\u{1b}["), "");
    }
}
