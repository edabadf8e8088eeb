//! What the integration tests, the end-to-end tests and the benchmarks share.
#![expect(
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "a test that cannot be set up has failed"
)]

pub mod api;
pub mod function;
pub mod postgres;
pub mod printed;
pub mod served;
pub mod sse;
pub mod stack;
