//! Places between a claim and its end at which a test lets the manager die, as SIGKILL would: nothing is dropped or said. They
//! exist with the feature `failpoints` alone, and `FAILPOINTS=name=return` chooses one (the `fail` crate has the grammar).

#[cfg(all(feature = "failpoints", not(debug_assertions)))]
compile_error!("failpoints do not belong into a release");

/// Dies here, where a test says so.
macro_rules! failpoint {
    ($name:literal) => {
        #[cfg(feature = "failpoints")]
        {
            fail::fail_point!($name, |_| std::process::abort());
        }
    };
}

pub(crate) use failpoint;
