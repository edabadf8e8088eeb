//! The product on real parts: its programs, Postgres, a registry, a cluster with a kubelet.
#![expect(clippy::unwrap_used, reason = "helpers of tests, which fail by it")]
#![expect(clippy::print_stdout, reason = "figures that are said and not asserted")]

mod build;
mod changes;
mod contained;
mod crash;
mod crash_matrix;
mod flood;
mod functions;
mod kill;
mod lifecycle;
mod logs;
mod managers;
mod octopus_files;
mod preflight;
mod reach;
mod rights;
mod shards;
mod token;
mod wants;
mod zombie;
