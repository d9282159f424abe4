//! The class of Gateways that are waypoints here.
//!
//! In: the GatewayClass as the API server has it. Out: one that is there, and says that it is ours. Never: a change of another one's.

use std::pin::pin;

use futures_util::StreamExt as _;
use jiff::Timestamp;
use kube::{
    Api,
    api::Patch,
    runtime::{WatchStreamExt as _, watcher::watch_object},
};
use serde_json::{Value, json};

use super::{
    deploy::{Deployer, Failure, params},
    known::Steady,
    status,
};
use crate::gateway::{self, CLASS, CONTROLLER, GROUP, GatewayClass};

/// Keeps the class, until it is dropped.
pub(super) async fn keep(deployer: &Deployer) {
    let api: Api<GatewayClass> = Api::all_with(deployer.client.clone(), &gateway::classes());
    let mut classes = pin!(watch_object(api.clone(), CLASS).backoff(Steady));
    let mut is_told = false;
    while let Some(class) = classes.next().await {
        let Ok(class) = class else { continue };
        let kept = match &class {
            None => make(deployer, &api).await,
            Some(class) if class.spec.controller_name == CONTROLLER => accept(deployer, &api, class).await,
            Some(class) => {
                let owner = &class.spec.controller_name;
                if !std::mem::replace(&mut is_told, true) {
                    tracing::warn!(
                        class = CLASS,
                        controller = owner,
                        "the GatewayClass names another controller: delete it"
                    );
                }
                Ok(())
            }
        };
        if let Err(failure) = kept {
            tracing::warn!(error = %failure, "the GatewayClass is not as it should be");
        }
    }
}

async fn make(deployer: &Deployer, api: &Api<GatewayClass>) -> Result<(), Failure> {
    let class = json!({
        "apiVersion": format!("{GROUP}/v1"), "kind": "GatewayClass", "metadata": {"name": CLASS},
        "spec": {"controllerName": CONTROLLER, "description": "Waypoints of kmesh-se: unmodified Envoys for bound services"},
    });
    let request = async { api.patch(CLASS, &params(), &Patch::Apply(&class)).await };
    deployer.write(("gatewayclass", CLASS), request).await?;
    tracing::info!(class = CLASS, "the GatewayClass was made");
    Ok(())
}

async fn accept(deployer: &Deployer, api: &Api<GatewayClass>, class: &GatewayClass) -> Result<(), Failure> {
    let before = class.status.clone().unwrap_or_default().conditions;
    let said = match &class.spec.parameters_ref {
        None => (status::ACCEPTED, true, "Accepted", "its Gateways become waypoints of kmesh-se".to_owned()),
        Some(_) => (
            status::ACCEPTED,
            false,
            "InvalidParameters",
            "spec.parametersRef is not looked at: write it into spec.infrastructure of each Gateway"
                .to_owned(),
        ),
    };
    let condition = status::condition(said, &before, class.metadata.generation, Timestamp::now());
    if before.contains(&condition) {
        return Ok(());
    }
    let object: Value = json!({
        "apiVersion": format!("{GROUP}/v1"), "kind": "GatewayClass", "metadata": {"name": CLASS},
        "status": {"conditions": [condition]},
    });
    let request = async { api.patch_status(CLASS, &params(), &Patch::Apply(&object)).await };
    deployer.write(("gatewayclass", CLASS), request).await.map(drop)
}
