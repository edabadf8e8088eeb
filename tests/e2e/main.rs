//! The product on real parts: its programs, Postgres, a registry, a cluster with a kubelet.
#![expect(clippy::unwrap_used, reason = "helpers of tests, which fail by it")]
#![expect(clippy::print_stdout, reason = "figures that are said and not asserted")]

mod alone;
mod build;
mod changes;
mod clusters;
mod contained;
mod crash;
mod crash_matrix;
mod crash_pairs;
mod faults;
mod flood;
mod followers;
mod functions;
mod kill;
mod kill_stages;
mod lifecycle;
mod log_clock;
mod log_ends;
mod log_faults;
mod log_spool;
mod logs;
mod managers;
mod merge;
mod octopus_files;
mod outages;
mod preflight;
mod reach;
mod reasons;
mod rights;
mod shards;
mod token;
mod versions;
mod wants;
mod warnings;
mod wrong_database;
mod zombie;
