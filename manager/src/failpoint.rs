//! Places between a claim and its end at which a test lets the manager die, as SIGKILL would: nothing is dropped or said. Or at
//! which it lets one command, or the reader of one log, wait while all others go on. They exist with the feature `failpoints`
//! alone; `FAILPOINTS=name=return` lets it die and `name=return(500)` wait for as many milliseconds (the `fail` crate has the
//! grammar).

#[cfg(all(feature = "failpoints", not(debug_assertions)))]
compile_error!("failpoints do not belong into a release");

/// Dies or waits here, where a test says so.
macro_rules! failpoint {
    ($name:literal) => {
        #[cfg(feature = "failpoints")]
        {
            let told = || -> Option<Option<String>> {
                fail::fail_point!($name, Some);
                None
            };
            crate::failpoint::obey(told()).await;
        }
    };
}

pub(crate) use failpoint;

/// Does what a place was told.
#[cfg(feature = "failpoints")]
pub(crate) async fn obey(told: Option<Option<String>>) {
    match told {
        None => {}
        Some(None) => std::process::abort(),
        Some(Some(milliseconds)) => {
            let wait = milliseconds.parse().unwrap_or_default();
            tokio::time::sleep(std::time::Duration::from_millis(wait)).await;
        }
    }
}
