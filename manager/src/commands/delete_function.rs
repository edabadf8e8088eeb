//! Ends when every process of the function is gone. The kills are commands of their own, stored with this one.

use std::time::Duration;

use octopus_shared::db::claim::Claim;
use octopus_shared::db::report;

use super::{Ending, Obstacle};
use crate::context::Context;

pub(super) async fn carry_out(context: &Context, claim: &Claim) -> Result<Ending, Obstacle> {
    let function = claim.function_name.as_deref().unwrap_or_default();
    Ok(match report::live_processes_of(&context.pool, function).await? {
        0 => Ending::SUCCEEDED,
        live => Ending::wait(Duration::from_secs(1), format!("{live} processes are being ended")),
    })
}
