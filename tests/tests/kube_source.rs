//! An agent whose source is a real API server, without a node that runs pods.

#[path = "kube_source/objects.rs"]
mod objects;
#[path = "kube_source/outage.rs"]
mod outage;
#[path = "kube_source/rules.rs"]
mod rules;
#[path = "kube_source/scale.rs"]
mod scale;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::Value;
use tests::agent::{Agent, Flags, mentions};
use tests::cluster::{ApiServer, Kubectl};
use tests::topology::{BACKEND, NODE};
use tests::{cgroup, poll};

const CRDS: &str = include_str!("kube_source/crds.yaml");
/// What the node is called.
const NAME: &str = "n1";
const LIMIT: Duration = Duration::from_secs(30);

/// An API server, and an agent beside it.
struct Scene {
    agent: Agent,
    flags: Flags,
    api: ApiServer,
}

impl Scene {
    /// Starts both; `prepare` puts objects in place before the agent starts, and says who the agent is.
    fn start(prepare: impl FnOnce(&ApiServer) -> anyhow::Result<PathBuf>) -> anyhow::Result<Scene> {
        let api = ApiServer::start()?;
        // The node, where the agent listens, and a backend.
        api.netns().ip(&format!("addr add {NODE}/32 dev lo\naddr add {BACKEND}/32 dev lo\n"))?;
        let kubeconfig = prepare(&api)?;
        let mut flags = Flags::new(api.run(), &cgroup::make(api.run())?)?;
        flags.cluster = Some((kubeconfig, NAME.to_owned()));
        // No kubelet makes cgroups for them.
        flags.more.push("--enrol-pods=false".to_owned());
        let agent = Agent::start_with(api.run(), api.netns(), flags.clone(), &[])?;
        Ok(Scene { agent, flags, api })
    }

    fn kubectl(&self) -> &Kubectl {
        self.api.kubectl()
    }

    /// Waits until what the agent answers to a command is as wanted.
    fn until(&self, command: &str, what: &str, is_so: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
        let mut last = Value::Null;
        let waited = poll::until(what, LIMIT, || {
            last = self.agent.get(command).ok()?;
            is_so(&last).then(|| last.clone())
        });
        waited.with_context(|| format!("last: {last:#}\n{}", self.agent.log_tail()))
    }

    /// Waits until the problems of an origin have this reason, or until there are none.
    fn until_problem(&self, origin: &str, reason: Option<&str>) -> anyhow::Result<String> {
        let what = format!("{origin} to have the problem {reason:?}");
        let status = self.until("/status", &what, |status| {
            let problem = problem(status, origin);
            problem.and_then(|problem| problem["reason"].as_str()) == reason
        })?;
        Ok(problem(&status, origin).and_then(|p| p["message"].as_str()).unwrap_or_default().to_owned())
    }

    /// Waits until `services` has a row with all of these texts.
    fn until_serves(&self, texts: &[&str]) -> anyhow::Result<()> {
        let serves = |json: &Value| {
            let rows = json["services"].as_array();
            rows.is_some_and(|rows| rows.iter().any(|row| texts.iter().all(|text| mentions(row, text))))
        };
        self.until("/services", &format!("{texts:?} to be served"), serves).map(drop)
    }

    /// Ends everything; nothing may be left.
    fn end(mut self) -> anyhow::Result<()> {
        self.agent.stop()?;
        let Scene { agent, api, .. } = self;
        drop(agent);
        assert_eq!(api.end(), Vec::<String>::new());
        Ok(())
    }
}

/// The first problem of an origin.
fn problem<'a>(status: &'a Value, origin: &str) -> Option<&'a Value> {
    status["source"]["problems"].as_array()?.iter().find(|problem| problem["origin"] == origin)
}

/// Anybody with all rights.
fn admin(api: &ApiServer) -> PathBuf {
    api.kubectl().kubeconfig().to_owned()
}

/// An entry with an address of its own, at port 80, whose backend is `BACKEND:9000`.
fn entry(api_version: &str, name: &str, address: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/{api_version}\nkind: ServiceEntry\nmetadata: {{name: {name}, namespace: default}}\n\
         spec:\n  hosts: [{name}.test]\n  addresses: [{address}]\n  ports: [{{number: 80, name: http, protocol: HTTP}}]\n  \
         resolution: STATIC\n  endpoints: [{{address: {BACKEND}, ports: {{http: 9000}}}}]\n"
    )
}
