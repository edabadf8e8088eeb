//! The queue's SQL beside a simple model of it: random histories of several managers that claim, end, give back, sleep and
//! die. After each step the tables are what the model says, so nothing is lost, doubled or out of order.

use std::collections::HashSet;

use octopus_shared::command::{CommandKind, Request};
use octopus_shared::db::claim::{self, Claim, MAX_RESCUES, Outcome, SUSPECT};
use octopus_shared::db::enqueue::{Asker, EnqueueError, enqueue};
use octopus_tests::function::{finish, services};
use octopus_tests::postgres::Database;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, TestRunner};
use std::time::Duration;
use uuid::Uuid;

const MANAGERS: usize = 3;
const KEYS: usize = 3;
const LEASE: Duration = Duration::from_secs(600);

#[derive(Clone, Debug)]
enum Step {
    Enqueue(usize),
    Claim(usize, i64),
    Finish(Index, bool),
    GiveBack(Index, bool),
    ClaimSuspect(usize),
    /// SIGKILL, and another one in its place.
    Die(usize),
    /// The same with all that waits in its hands, which is taken back.
    DieWithAll(usize),
    SignOff(usize),
    /// A claim by one that is dead or has said goodbye.
    ClaimOfTheDead(Index),
    Rescue,
    Cancel(Index),
    Requeue(Index),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let index = any::<Index>;
    let step = prop_oneof![
        6 => (0..KEYS).prop_map(Step::Enqueue),
        6 => (0..MANAGERS, 1..5_i64).prop_map(|(manager, limit)| Step::Claim(manager, limit)),
        5 => (index(), any::<bool>()).prop_map(|(claim, well)| Step::Finish(claim, well)),
        3 => (index(), any::<bool>()).prop_map(|(claim, failed)| Step::GiveBack(claim, failed)),
        2 => (0..MANAGERS).prop_map(Step::ClaimSuspect),
        3 => (0..MANAGERS).prop_map(Step::Die),
        3 => (0..MANAGERS).prop_map(Step::DieWithAll),
        1 => (0..MANAGERS).prop_map(Step::SignOff),
        1 => index().prop_map(Step::ClaimOfTheDead),
        4 => Just(Step::Rescue),
        1 => index().prop_map(Step::Cancel),
        2 => index().prop_map(Step::Requeue),
    ];
    prop::collection::vec(step, 1..60)
}

/// Where a command is: in one place.
#[derive(Clone, Debug, PartialEq)]
enum Place {
    Ready { attempts: i32, rescues: i32 },
    Leased { token: i64, attempts: i32, rescues: i32 },
    Ended(&'static str),
}

#[derive(Debug)]
struct Command {
    id: Uuid,
    key: usize,
    holder: Option<Uuid>,
    place: Place,
}

struct Model<'a> {
    database: &'a Database,
    cluster: String,
    processes: Vec<Uuid>,
    commands: Vec<Command>,
    /// Every claim that was ever given, and the command that it is of.
    claims: Vec<(Claim, usize)>,
    managers: Vec<Uuid>,
    dead: Vec<Uuid>,
    succeeded: HashSet<Uuid>,
}

impl<'a> Model<'a> {
    async fn new(database: &'a Database) -> Self {
        let cluster = format!("c{}", &Uuid::new_v4().simple().to_string()[..12]);
        let processes = services(database, &cluster, KEYS).await;
        let mut model = Self {
            database,
            cluster,
            processes,
            commands: Vec::new(),
            claims: Vec::new(),
            managers: Vec::new(),
            dead: Vec::new(),
            succeeded: HashSet::new(),
        };
        for _ in 0..MANAGERS {
            let instance = model.register().await;
            model.managers.push(instance);
        }
        model
    }

    async fn register(&self) -> Uuid {
        let instance = Uuid::new_v4();
        claim::register(&self.database.manager, instance, &self.cluster, "test", LEASE)
            .await
            .unwrap();
        instance
    }

    /// What a claim has to take: of each key the oldest that waits, unless one of it is held; of those that managers died with too
    /// often, or of the others.
    fn claimable(&self, suspects: bool, limit: i64) -> Vec<usize> {
        let held = |key| {
            self.commands
                .iter()
                .any(|other| other.key == key && other.holder.is_some())
        };
        let mut seen = HashSet::new();
        let waiting = self.commands.iter().enumerate();
        let waiting = waiting.filter(|(_, command)| matches!(command.place, Place::Ready { .. }));
        let oldest = waiting.filter(|(_, command)| seen.insert(command.key) && !held(command.key));
        let oldest = oldest.filter(
            |(_, command)| matches!(command.place, Place::Ready { rescues, .. } if (rescues >= SUSPECT) == suspects),
        );
        let limit = usize::try_from(limit).unwrap();
        oldest.map(|(number, _)| number).take(limit).collect()
    }

    async fn claim(&mut self, manager: Uuid, limit: i64) {
        let (pool, cluster) = (&self.database.manager, self.cluster.as_str());
        let taken = claim::claim(pool, manager, cluster, &CommandKind::CLAIMED, limit).await;
        self.claimed(manager, taken.unwrap(), false, limit);
    }

    async fn claim_suspect(&mut self, manager: Uuid) {
        let taken = claim::claim_suspect(&self.database.manager, manager, &self.cluster).await;
        self.claimed(manager, taken.unwrap().into_iter().collect(), true, 1);
    }

    fn claimed(&mut self, manager: Uuid, taken: Vec<Claim>, suspects: bool, limit: i64) {
        let alive = self.managers.contains(&manager);
        let expected = if alive {
            self.claimable(suspects, limit)
        } else {
            Vec::new()
        };
        let ids = |numbers: &[usize]| {
            numbers
                .iter()
                .map(|number| self.commands[*number].id)
                .collect::<Vec<_>>()
        };
        assert_eq!(
            taken.iter().map(|claim| claim.id).collect::<Vec<_>>(),
            ids(&expected),
            "what is claimed"
        );
        for (claim, number) in taken.into_iter().zip(expected) {
            let newest = self.claims.iter().map(|(claim, _)| claim.token).max();
            assert!(newest.is_none_or(|newest| claim.token > newest), "tokens rise");
            let command = &mut self.commands[number];
            let Place::Ready { attempts, rescues } = command.place else {
                unreachable!("it waits")
            };
            assert_eq!(claim.attempts, attempts);
            command.holder = Some(manager);
            command.place = Place::Leased {
                token: claim.token,
                attempts,
                rescues,
            };
            self.claims.push((claim, number));
        }
    }

    /// Whether a claim still is what its command is held by.
    fn is_current(&self, claim: &Claim, number: usize) -> Option<(i32, i32)> {
        match self.commands[number].place {
            Place::Leased {
                token,
                attempts,
                rescues,
            } if token == claim.token => Some((attempts, rescues)),
            _ => None,
        }
    }

    fn put(&mut self, number: usize, place: Place) {
        self.commands[number].holder = None;
        self.commands[number].place = place;
    }

    async fn finish(&mut self, claim: Claim, number: usize, well: bool) {
        let current = self.is_current(&claim, number);
        let outcome = if well {
            Outcome::Succeeded
        } else {
            Outcome::Failed {
                reason: "r".into(),
                message: "m".into(),
                remedy: "do".into(),
            }
        };
        let written = finish(&self.database.manager, &claim, &outcome).await.unwrap();
        assert_eq!(written, current.is_some(), "a stale token ends nothing");
        if !written {
            return;
        }
        self.put(number, Place::Ended(if well { "succeeded" } else { "failed" }));
        if well {
            let key = self.commands[number].key;
            assert!(self.succeeded.insert(claim.id), "nothing is done twice");
            let later = &self.commands[number + 1..];
            assert!(
                !later
                    .iter()
                    .any(|later| later.key == key && self.succeeded.contains(&later.id)),
                "of one key in order"
            );
        }
    }

    async fn give_back(&mut self, claim: Claim, number: usize, failed: bool) {
        let current = self.is_current(&claim, number);
        let written = claim::give_back(&self.database.manager, &claim, Duration::ZERO, failed)
            .await
            .unwrap();
        assert_eq!(written, current.is_some(), "a stale token gives nothing back");
        if let Some((attempts, rescues)) = current {
            let attempts = attempts + i32::from(failed);
            self.put(number, Place::Ready { attempts, rescues });
        }
    }

    async fn leave(&mut self, manager: usize, goodbye: bool) {
        let instance = self.managers[manager];
        if goodbye {
            claim::sign_off(&self.database.manager, instance).await.unwrap();
            for command in &mut self.commands {
                if let Place::Leased { attempts, rescues, .. } = command.place
                    && command.holder == Some(instance)
                {
                    command.holder = None;
                    command.place = Place::Ready { attempts, rescues };
                }
            }
        } else {
            sqlx::query("update manager set lease_until = now() - interval '1 second' where instance = $1")
                .bind(instance)
                .execute(&self.database.owner)
                .await
                .unwrap();
        }
        self.dead.push(instance);
        self.managers[manager] = self.register().await;
    }

    async fn rescue(&mut self) {
        let mut expected = 0;
        for command in &mut self.commands {
            let Place::Leased { attempts, rescues, .. } = command.place else {
                continue;
            };
            if !command.holder.is_some_and(|holder| self.dead.contains(&holder)) {
                continue;
            }
            command.holder = None;
            command.place = if rescues < MAX_RESCUES {
                expected += 1;
                Place::Ready {
                    attempts,
                    rescues: rescues + 1,
                }
            } else {
                Place::Ended("failed")
            };
        }
        let rescued = claim::rescue(&self.database.manager, &self.cluster).await.unwrap();
        assert_eq!(rescued.rescued, expected, "what is taken back");
    }

    async fn ask(&self, request: &Request) -> Result<Uuid, EnqueueError> {
        let asker = Asker {
            name: "test".into(),
            ..Asker::default()
        };
        enqueue(&self.database.api, request, &asker)
            .await
            .map(|accepted| accepted.command.id)
    }

    async fn cancel(&mut self, number: usize) {
        let command = self.commands[number].id;
        let done = self.ask(&Request::CancelCommand { command }).await;
        match self.commands[number].place {
            Place::Ready { .. } => self.put(number, Place::Ended("cancelled")),
            Place::Ended("cancelled") => {}
            _ => {
                assert!(matches!(done, Err(EnqueueError::Conflict { .. })), "{done:?}");
                return;
            }
        }
        assert!(done.is_ok(), "{done:?}");
    }

    async fn requeue(&mut self, number: usize) {
        let Command { id, key, .. } = self.commands[number];
        let begun = |later: &Command| matches!(later.place, Place::Leased { .. } | Place::Ended("succeeded"));
        let later = &self.commands[number + 1..];
        let overtaken = later.iter().any(|later| later.key == key && begun(later));
        let done = self.ask(&Request::RequeueCommand { command: id }).await;
        if self.commands[number].place == Place::Ended("failed") && !overtaken {
            assert!(done.is_ok(), "{done:?}");
            let place = Place::Ready {
                attempts: 0,
                rescues: 0,
            };
            self.put(number, place);
        } else {
            assert!(matches!(done, Err(EnqueueError::Conflict { .. })), "{done:?}");
        }
    }

    async fn carry_out(&mut self, step: Step) {
        match step {
            Step::Enqueue(key) => {
                let process = self.processes[key];
                let id = self.ask(&Request::RestartProcess { process }).await.unwrap();
                self.commands.push(Command {
                    id,
                    key,
                    holder: None,
                    place: Place::Ready {
                        attempts: 0,
                        rescues: 0,
                    },
                });
            }
            Step::Claim(manager, limit) => self.claim(self.managers[manager], limit).await,
            Step::ClaimOfTheDead(dead) if !self.dead.is_empty() => {
                let dead = *dead.get(&self.dead);
                self.claim(dead, 4).await;
                self.claim_suspect(dead).await;
            }
            Step::Finish(claim, well) if !self.claims.is_empty() => {
                let (claim, number) = claim.get(&self.claims).clone();
                self.finish(claim, number, well).await;
            }
            Step::GiveBack(claim, failed) if !self.claims.is_empty() => {
                let (claim, number) = claim.get(&self.claims).clone();
                self.give_back(claim, number, failed).await;
            }
            Step::ClaimSuspect(manager) => self.claim_suspect(self.managers[manager]).await,
            Step::Die(manager) => self.leave(manager, false).await,
            Step::DieWithAll(manager) => {
                self.claim(self.managers[manager], 100).await;
                self.claim_suspect(self.managers[manager]).await;
                self.leave(manager, false).await;
                self.rescue().await;
            }
            Step::SignOff(manager) => self.leave(manager, true).await,
            Step::Rescue => self.rescue().await,
            Step::Cancel(command) if !self.commands.is_empty() => self.cancel(command.index(self.commands.len())).await,
            Step::Requeue(command) if !self.commands.is_empty() => {
                self.requeue(command.index(self.commands.len())).await;
            }
            _ => {}
        }
    }

    /// The tables are what the model says.
    async fn compare(&self) {
        type Row = (
            Uuid,
            String,
            Option<i32>,
            Option<i32>,
            Option<i64>,
            Option<i32>,
            Option<i32>,
        );
        let rows: Vec<Row> = sqlx::query_as(
            "select c.id, c.state, r.attempts, r.rescues, l.token, l.attempts, l.rescues
               from command c left join command_ready r on r.seq = c.seq left join command_lease l on l.seq = c.seq
              where c.cluster = $1 and c.kind = 'restart_process' order by c.seq",
        )
        .bind(&self.cluster)
        .fetch_all(&self.database.owner)
        .await
        .unwrap();
        assert_eq!(rows.len(), self.commands.len());
        for (row, command) in rows.iter().zip(&self.commands) {
            let expected: Row = match command.place {
                Place::Ready { attempts, rescues } => {
                    let waits = "waiting".to_owned();
                    (command.id, waits, Some(attempts), Some(rescues), None, None, None)
                }
                Place::Leased {
                    token,
                    attempts,
                    rescues,
                } => {
                    let waits = "waiting".to_owned();
                    (
                        command.id,
                        waits,
                        None,
                        None,
                        Some(token),
                        Some(attempts),
                        Some(rescues),
                    )
                }
                Place::Ended(how) => (command.id, how.to_owned(), None, None, None, None, None),
            };
            assert_eq!(*row, expected);
        }
    }
}

#[test]
fn random_histories_leave_the_tables_as_a_simple_model_says() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let database = runtime.block_on(Database::new());
    let all = Config::default();
    // Each history is a hundred statements: an eighth of the cases of a parser's test.
    let config = Config {
        cases: (all.cases / 8).max(1),
        failure_persistence: None,
        ..all
    };
    TestRunner::new(config)
        .run(&steps(), |steps| {
            runtime.block_on(async {
                let mut model = Model::new(&database).await;
                for step in steps {
                    model.carry_out(step).await;
                    model.compare().await;
                }
            });
            Ok(())
        })
        .unwrap();
    runtime.block_on(async { drop(database) });
}
