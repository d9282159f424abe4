//! What an Envoy must be given to become a waypoint: who it is, and where it hears the rest.
//!
//! In: a node id and paths of sockets. Out: a configuration for `envoy --config-path`, and flags. Never: a service.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

/// The name of the cluster by which Envoy reaches the server.
const SERVER: &str = "kmesh-se";
/// The longest that an Envoy waits before it looks for a server again that is away.
const RETRY_MAX: &str = "2s";

/// What an Envoy must be given to become a waypoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bootstrap {
    /// Its id, by which [`super::Xds::standing`] tells Envoys apart.
    pub node: String,
    /// Its cluster's name, for people.
    pub cluster: String,
    /// The Unix socket where the server listens.
    pub server: PathBuf,
    /// Where Envoy's own admin page listens, a Unix socket; none: nowhere.
    pub admin: Option<PathBuf>,
}

impl Bootstrap {
    /// The configuration, as JSON.
    #[must_use]
    pub fn config(&self) -> Value {
        let pipe = |path: &Path| json!({"pipe": {"path": path}});
        let ads = json!({"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"});
        let http2 = json!({"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}},
        }});
        let mut config = json!({
            "node": {"id": self.node, "cluster": self.cluster},
            "dynamic_resources": {
                "ads_config": {
                    "api_type": "DELTA_GRPC",
                    "transport_api_version": "V3",
                    "set_node_on_first_message_only": true,
                    "grpc_services": [{"envoy_grpc": {
                        "cluster_name": SERVER,
                        "retry_policy": {"retry_back_off": {"base_interval": "0.2s", "max_interval": RETRY_MAX}},
                    }}],
                },
                "cds_config": ads,
                "lds_config": ads,
            },
            "static_resources": {"clusters": [{
                "name": SERVER,
                "type": "STATIC",
                "connect_timeout": "1s",
                "typed_extension_protocol_options": http2,
                "load_assignment": {"cluster_name": SERVER, "endpoints": [
                    {"lb_endpoints": [{"endpoint": {"address": pipe(&self.server)}}]}]},
            }]},
        });
        if let Some(admin) = &self.admin {
            config["admin"] = json!({"address": pipe(admin)});
        }
        config
    }

    /// The flags for an Envoy whose configuration is in the file `config`, and which its supervisor starts anew when it
    /// ends: no hot restart, so no shared memory and no second process.
    #[must_use]
    pub fn arguments(config: &Path) -> Vec<String> {
        vec!["--disable-hot-restart".into(), "--config-path".into(), config.display().to_string()]
    }
}
