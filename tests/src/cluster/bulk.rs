//! Many objects at once, by a proxy that leaves out what takes kubectl its time.
//!
//! In: objects. Out: the API server has them. Never: a check of what became of them.

use std::net::{Ipv4Addr, TcpStream};
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::Value;

use super::ApiServer;
use crate::netns::Netns;
use crate::servers::Process;

const READY: Duration = Duration::from_secs(60);
/// How many clients make objects.
const CLIENTS: usize = 8;

/// A way to the API server without TLS and without credentials, in the network namespace of the node. It ends when it is dropped.
#[derive(Debug)]
pub struct Bulk {
    _proxy: Process,
    netns: Netns,
}

impl Bulk {
    /// The port on the namespace's loopback address.
    const PORT: u16 = 8001;

    /// Starts the proxy and waits until it listens.
    ///
    /// # Errors
    /// When it does not.
    pub fn start(api: &ApiServer) -> anyhow::Result<Bulk> {
        let netns = api.netns().clone();
        let mut proxy = api.kubectl().command(&["proxy", &format!("--port={}", Bulk::PORT)]);
        let mut proxy = Process::start(proxy.stdin(Stdio::null()), &api.run().folder()?.join("proxy.log"))?;
        let listens = || {
            let connect = || TcpStream::connect((Ipv4Addr::LOCALHOST, Bulk::PORT)).is_ok();
            netns.inside(connect).unwrap_or(false)
        };
        proxy.ready("the proxy to listen", READY, listens)?;
        Ok(Bulk { _proxy: proxy, netns })
    }

    /// Makes these in the collection at `path`.
    ///
    /// # Errors
    /// When one is refused.
    pub fn make(&self, path: &str, objects: &[Value]) -> anyhow::Result<()> {
        let url = url(path);
        let part = |objects: &[Value]| -> anyhow::Result<()> {
            let client = ureq::Agent::new_with_defaults();
            objects.iter().try_for_each(|object| {
                let body = serde_json::to_string(object)?;
                let made = client.post(&url).content_type("application/json").send(&body);
                made.map(drop).with_context(|| format!("cannot make {} of {url}", object["metadata"]["name"]))
            })
        };
        std::thread::scope(|scope| {
            let parts: Vec<_> = objects
                .chunks(objects.len().div_ceil(CLIENTS).max(1))
                .map(|objects| scope.spawn(|| self.netns.inside(|| part(objects))?))
                .collect();
            parts
                .into_iter()
                .try_for_each(|part| part.join().unwrap_or_else(|p| std::panic::resume_unwind(p)))
        })
    }

    /// What is at `path`.
    ///
    /// # Errors
    /// When nothing is.
    pub fn get(&self, path: &str) -> anyhow::Result<Value> {
        let get = || {
            let mut answer = ureq::get(url(path)).call()?;
            let text = answer.body_mut().with_config().limit(1 << 30).read_to_string()?;
            anyhow::Ok(serde_json::from_str(&text)?)
        };
        self.netns.inside(get)?
    }
}

fn url(path: &str) -> String {
    format!("http://127.0.0.1:{}{path}", Bulk::PORT)
}
