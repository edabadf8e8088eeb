//! Whether there is an API, a manager and a cluster.

use std::time::Duration;

use serde_json::Value;
use tokio::time::sleep;

use crate::failure::Failure;
use crate::stage::Stage;

const LIMIT: Duration = Duration::from_secs(90);

pub(super) async fn at_the_stack(stage: &Stage) -> Result<(), Failure> {
    stage.client.text("/readyz").await?;
    stage.out.say("the API answers and reaches its database");
    let look = format!("GET /api/v1/clusters/{}, and the log of the manager", stage.cluster);
    let cluster = stage
        .out
        .patiently(LIMIT, "a manager that reaches its cluster", &look, reachable(stage))
        .await?;
    let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    for manager in cluster["managers"].as_array().into_iter().flatten() {
        stage.out.say(format!(
            "a manager serves cluster {}: version {}",
            stage.cluster,
            text(&manager["version"])
        ));
    }
    stage
        .out
        .seen(&format!("seen: Kubernetes {} is reached", text(&cluster["version"])));
    Ok(())
}

async fn reachable(stage: &Stage) -> Result<Value, Failure> {
    loop {
        // The one cluster would be a 404 until its manager has come for the first time.
        let clusters: Value = stage.client.get("/api/v1/clusters").await?;
        let found = clusters["items"].as_array().into_iter().flatten().find(|cluster| {
            let served = cluster["managers"]
                .as_array()
                .is_some_and(|managers| !managers.is_empty());
            cluster["name"] == stage.cluster.as_str() && served && cluster["reachable"] == true
        });
        if let Some(cluster) = found {
            return Ok(cluster.clone());
        }
        sleep(Duration::from_millis(500)).await;
    }
}
