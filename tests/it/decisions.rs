//! What pods say about their process, for any process and any pods: what may never come out.

use chrono::{DateTime, TimeDelta};
use octopus_shared::pod::{KnownPod, KnownProcess, Step, Verdict, judge};
use octopus_shared::process::{Lifecycle, ProcessKind, ProcessState};
use octopus_shared::reason;
use proptest::prelude::*;
use proptest::sample::select;

fn state() -> impl Strategy<Value = ProcessState> {
    use ProcessState::{Failed, Failing, Ready, Running, Starting, Stopping, Succeeded};
    select(vec![Starting, Running, Ready, Failing, Stopping, Succeeded, Failed])
}

fn pods() -> impl Strategy<Value = Vec<KnownPod>> {
    let pod = (
        1..3_i32,
        select(vec![None, Some("1"), Some("2")]),
        state(),
        any::<bool>(),
        any::<bool>(),
        select(vec![None, Some(reason::CRASH_LOOP), Some(reason::UNSCHEDULABLE)]),
    );
    prop::collection::vec(pod, 0..5).prop_map(|pods| {
        let numbered = (0_i64..).zip(pods);
        numbered
            .map(|(number, (attempt, wish, state, ended, gone, reason))| KnownPod {
                attempt,
                wish: wish.map(str::to_owned),
                verdict: Verdict {
                    reason,
                    ..Verdict::plain(state)
                },
                ended,
                gone,
                // No two are of the same time.
                created_at: DateTime::UNIX_EPOCH + TimeDelta::seconds(number),
            })
            .collect()
    })
}

fn process() -> impl Strategy<Value = KnownProcess> {
    let lifecycle = select(vec![
        Lifecycle::Requested,
        Lifecycle::Created,
        Lifecycle::Stopping,
        Lifecycle::Gone,
    ]);
    let kind = select(vec![ProcessKind::Service, ProcessKind::Task]);
    (
        kind,
        any::<bool>(),
        lifecycle,
        state(),
        0..4_i32,
        1..3_i32,
        0..2_i32,
        any::<bool>(),
    )
        .prop_map(
            |(kind, killed, lifecycle, state, replicas, attempt, retries, logs_sealed)| KnownProcess {
                kind,
                killed,
                lifecycle,
                state,
                wish: "2".into(),
                replicas,
                attempt,
                retries,
                logs_sealed,
            },
        )
}

fn answers(pod: &KnownPod) -> bool {
    !pod.gone && !pod.ended && pod.verdict.state == ProcessState::Ready
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_look_at_pods_leads_back_or_astray(process in process(), pods in pods()) {
        let step = judge(&process, &pods);
        let mut turned = pods.clone();
        turned.reverse();
        // Of equal standing, one pod's words stand for the others': the state does not depend on their order.
        match (&step, &judge(&process, &turned)) {
            (Step::Show(lifecycle, verdict), Step::Show(other_lifecycle, other)) => {
                prop_assert_eq!((lifecycle, verdict.state, verdict.reason), (other_lifecycle, other.state, other.reason));
            }
            (one, other) => prop_assert_eq!(one, other),
        }
        match step {
            Step::Stay => {}
            Step::Retry(_) => {
                prop_assert!(process.kind == ProcessKind::Task && !process.killed && process.attempt <= process.retries);
                prop_assert!(process.lifecycle < Lifecycle::Stopping && !process.state.is_terminal());
            }
            Step::Show(lifecycle, verdict) => {
                prop_assert!(process.lifecycle < Lifecycle::Gone, "nothing follows it");
                if process.killed || process.lifecycle == Lifecycle::Stopping {
                    prop_assert_eq!((lifecycle, verdict.state), (Lifecycle::Stopping, ProcessState::Killed));
                    prop_assert!(pods.iter().all(|pod| pod.ended || pod.gone), "something of it may still run");
                } else {
                    prop_assert!(lifecycle >= process.lifecycle);
                    if process.kind == ProcessKind::Service {
                        prop_assert_eq!(lifecycle, Lifecycle::Created, "only a kill ends a service");
                        prop_assert_eq!(verdict.state == ProcessState::Ready, pods.iter().any(answers));
                        let idle = verdict.reason == Some(reason::SCALED_TO_ZERO);
                        prop_assert!(!idle || process.replicas == 0 && pods.iter().all(|pod| pod.ended || pod.gone));
                    } else if lifecycle == Lifecycle::Gone {
                        prop_assert!(process.logs_sealed && pods.iter().all(|pod| pod.gone));
                    }
                }
            }
        }
    }
}
