//! What the pods of a service say about it, while they are few, many, or being replaced. Pure.

use chrono::{DateTime, SecondsFormat, Utc};

use crate::pod::{KnownPod, Verdict};
use crate::process::ProcessState;
use crate::reason;

/// What is wanted of a process, but for how many pods it has: the number of its revision and its newest restart. Objects and
/// pods carry it, which tells those of an earlier wish from new ones, whatever a newer release makes of the same wish.
pub fn wish(revision: i32, restarted_at: Option<DateTime<Utc>>) -> String {
    match restarted_at {
        Some(at) => format!("{revision}/{}", at.to_rfc3339_opts(SecondsFormat::Micros, true)),
        None => revision.to_string(),
    }
}

/// What a service shows. It is ready as long as anything of it answers, and says when that is not all that is wanted.
pub(crate) fn verdict(replicas: i32, wanted: &str, pods: &[KnownPod]) -> Verdict {
    let live: Vec<&KnownPod> = pods.iter().filter(|pod| !pod.gone && !pod.ended).collect();
    let is_new = |pod: &&&KnownPod| pod.wish.as_deref().is_none_or(|wish| wish == wanted);
    let is_ready = |pod: &&&KnownPod| pod.verdict.state == ProcessState::Ready;
    let stays = |pod: &&&KnownPod| pod.verdict.state != ProcessState::Stopping;
    // One that is being deleted speaks for the service when no other is there.
    let speaker = newest(live.iter().filter(stays).copied()).or_else(|| newest(live.iter().copied()));
    let Some(newest) = speaker else {
        return if replicas == 0 {
            Verdict::because(ProcessState::Pending, reason::SCALED_TO_ZERO, "no pod of it is wanted")
        } else {
            starting_after(wanted, pods, Verdict::plain(ProcessState::Starting))
        };
    };
    let new = live.iter().filter(is_new).count();
    let new_ready = live.iter().filter(is_new).filter(is_ready).count();
    let Some(ready) = self::newest(live.iter().filter(is_ready).copied()) else {
        return starting_after(wanted, pods, newest.verdict.clone());
    };
    // Of the pods that are to come, the first that says what it waits for.
    let hindered = live
        .iter()
        .filter(is_new)
        .filter(|pod| !is_ready(pod) && stays(pod))
        .find_map(|pod| Some((pod.verdict.reason?, pod.verdict.message.clone().unwrap_or_default())));
    let because = |why, words: String| Verdict::because(ProcessState::Ready, why, words);
    if new < live.len() || new == 0 {
        return match hindered {
            Some((why, message)) => because(reason::ROLLOUT_HINDERED, format!("{}: {message}", why.id)),
            None => because(
                reason::ROLLING_OUT,
                "new pods take the place of the earlier ones".into(),
            ),
        };
    }
    if i32::try_from(new_ready).unwrap_or(i32::MAX) < replicas {
        let why = hindered.map_or_else(String::new, |(why, message)| format!(": {}: {message}", why.id));
        return because(
            reason::PARTLY_READY,
            format!("fewer than the {replicas} pods that are wanted are ready{why}"),
        );
    }
    ready.verdict.clone()
}

/// A start that needs no explanation, unless the pod before it was ended by its node or by the scheduler: then that is the one.
fn starting_after(wanted: &str, pods: &[KnownPod], start: Verdict) -> Verdict {
    let is_plain = start.state == ProcessState::Starting && start.reason.is_none();
    let over = pods.iter().filter(|pod| pod.gone || pod.ended);
    let before = newest(over.filter(|pod| pod.wish.as_deref().is_none_or(|wish| wish == wanted)));
    match before.map(|pod| &pod.verdict) {
        Some(failed) if is_plain && failed.state == ProcessState::Failed && failed.reason.is_some() => Verdict {
            reason: failed.reason,
            message: failed.message.as_ref().map(|words| format!("the pod before: {words}")),
            ..start
        },
        _ => start,
    }
}

fn newest<'a>(pods: impl Iterator<Item = &'a KnownPod>) -> Option<&'a KnownPod> {
    pods.max_by_key(|pod| pod.created_at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(wish: &str, state: ProcessState) -> KnownPod {
        KnownPod {
            attempt: 1,
            wish: Some(wish.into()),
            verdict: Verdict::plain(state),
            ended: false,
            gone: false,
            created_at: DateTime::UNIX_EPOCH,
        }
    }

    #[test]
    fn a_wish_is_its_revision_and_its_restart() {
        let at = DateTime::from_timestamp_micros(1_800_000_000_123_456);
        assert_eq!(wish(3, None), "3");
        assert_eq!(wish(3, at), "3/2027-01-15T08:00:00.123456Z");
    }

    #[test]
    fn pods_of_two_wishes_are_a_rollout() {
        use ProcessState::{Failed, Failing, Pending, Ready, Running, Starting, Stopping};
        let gone = KnownPod {
            gone: true,
            ..pod("1", Ready)
        };
        let of_an_earlier_release = KnownPod {
            wish: None,
            ..pod("", Ready)
        };
        let crashing = KnownPod {
            verdict: Verdict::because(Failing, reason::CRASH_LOOP, "exit code 3"),
            ..pod("2", Failing)
        };
        let waiting = KnownPod {
            verdict: Verdict::because(Starting, reason::UNSCHEDULABLE, "no room"),
            ..pod("2", Starting)
        };
        let leaving = KnownPod {
            verdict: Verdict::because(Stopping, reason::TERMINATING, "30 s"),
            created_at: DateTime::UNIX_EPOCH + chrono::TimeDelta::seconds(1),
            ..pod("2", Stopping)
        };
        let evicted = |age: i64, wish: &str| KnownPod {
            verdict: Verdict::because(Failed, reason::EVICTED, "disk"),
            ended: true,
            created_at: DateTime::UNIX_EPOCH - chrono::TimeDelta::seconds(age),
            ..pod(wish, Failed)
        };
        let later = |earlier: &KnownPod| KnownPod {
            wish: Some("2".into()),
            ..earlier.clone()
        };
        for (name, replicas, pods, state, why) in [
            ("all as wanted", 1, vec![pod("2", Ready)], Ready, None),
            (
                "seen by an earlier release",
                1,
                vec![of_an_earlier_release],
                Ready,
                None,
            ),
            ("nothing yet", 1, vec![gone.clone()], Starting, None),
            (
                "nothing yet, and its pod was evicted",
                1,
                vec![evicted(1, "2")],
                Starting,
                Some(reason::EVICTED),
            ),
            (
                "its pod was evicted and the next one starts",
                1,
                vec![evicted(1, "2"), pod("2", Starting)],
                Starting,
                Some(reason::EVICTED),
            ),
            (
                "the next one says what it waits for itself",
                1,
                vec![evicted(1, "2"), waiting.clone()],
                Starting,
                Some(reason::UNSCHEDULABLE),
            ),
            (
                "an earlier one than the last was evicted",
                1,
                vec![evicted(1, "2"), later(&gone), pod("2", Starting)],
                Starting,
                None,
            ),
            (
                "one of another wish was evicted",
                1,
                vec![evicted(1, "1"), pod("2", Starting)],
                Starting,
                None,
            ),
            (
                "its pod was evicted and the next one answers",
                1,
                vec![evicted(1, "2"), pod("2", Ready)],
                Ready,
                None,
            ),
            (
                "nothing is wanted",
                0,
                vec![gone.clone()],
                Pending,
                Some(reason::SCALED_TO_ZERO),
            ),
            ("the last one still ends", 0, vec![pod("2", Running)], Running, None),
            (
                "the new pod is not there yet",
                1,
                vec![pod("1", Ready)],
                Ready,
                Some(reason::ROLLING_OUT),
            ),
            (
                "the new pod starts",
                1,
                vec![pod("1", Ready), pod("2", Starting)],
                Ready,
                Some(reason::ROLLING_OUT),
            ),
            (
                "the new pod crashes",
                1,
                vec![pod("1", Ready), crashing.clone()],
                Ready,
                Some(reason::ROLLOUT_HINDERED),
            ),
            (
                "the new pod finds no node",
                1,
                vec![pod("1", Ready), waiting.clone()],
                Ready,
                Some(reason::ROLLOUT_HINDERED),
            ),
            (
                "the old pod is still there",
                1,
                vec![pod("1", Ready), pod("2", Ready)],
                Ready,
                Some(reason::ROLLING_OUT),
            ),
            (
                "nothing answers and the new pod crashes",
                1,
                vec![crashing],
                Failing,
                Some(reason::CRASH_LOOP),
            ),
            (
                "one of two",
                2,
                vec![pod("2", Ready), waiting],
                Ready,
                Some(reason::PARTLY_READY),
            ),
            (
                "one of two, the other is not made yet",
                2,
                vec![pod("2", Ready)],
                Ready,
                Some(reason::PARTLY_READY),
            ),
            ("two of two", 2, vec![pod("2", Ready), pod("2", Ready)], Ready, None),
            (
                "its pod is deleted",
                1,
                vec![leaving.clone()],
                Stopping,
                Some(reason::TERMINATING),
            ),
            (
                "another takes the place of the one that is deleted",
                1,
                vec![pod("2", Starting), leaving.clone()],
                Starting,
                None,
            ),
            (
                "the other answers already",
                1,
                vec![leaving.clone(), pod("2", Ready)],
                Ready,
                None,
            ),
            (
                "the new pods take the place of one that is deleted",
                1,
                vec![pod("1", Ready), leaving.clone()],
                Ready,
                Some(reason::ROLLING_OUT),
            ),
            (
                "fewer are wanted and the last ends",
                0,
                vec![leaving],
                Stopping,
                Some(reason::TERMINATING),
            ),
            (
                "more than are wanted: they end",
                1,
                vec![pod("2", Ready), pod("2", Ready), gone],
                Ready,
                None,
            ),
        ] {
            let seen = verdict(replicas, "2", &pods);
            assert_eq!((seen.state, seen.reason), (state, why), "{name}: {seen:?}");
        }
    }

    #[test]
    fn what_hinders_a_rollout_is_named() {
        let crashing = KnownPod {
            verdict: Verdict::because(ProcessState::Failing, reason::CRASH_LOOP, "exit code 3"),
            ..pod("2", ProcessState::Failing)
        };
        let seen = verdict(1, "2", &[pod("1", ProcessState::Ready), crashing]);
        assert_eq!(seen.message.as_deref(), Some("crash_loop: exit code 3"));
    }
}
