//! The product on real parts: its programs, Postgres, a registry, a cluster with a kubelet.

mod build;
mod crash;
mod functions;
mod kill;
mod lifecycle;
mod logs;
mod managers;
mod rights;
