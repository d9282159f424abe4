//! What an Envoy must be given to become a waypoint: who it is, and where it hears the rest.
//!
//! In: a node id and where the server is. Out: a configuration for `envoy --config-path` or `--config-yaml`, and flags. Never: a service.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

/// The name of the cluster by which Envoy reaches the server.
const SERVER: &str = "kmesh-se";
/// The flags of every Envoy. Its supervisor starts it anew when it ends: no hot restart, so no shared memory and no second process.
/// It warns for every listener of a field that is new in its API and needed for methods that HTTP has no name for.
pub const FLAGS: [&str; 5] =
    ["--disable-hot-restart", "--log-level", "warning", "--component-log-level", "misc:error"];
/// The name of the cluster that is its own admin page.
const ADMIN: &str = "kmesh-se-admin";
/// The longest that an Envoy waits before it looks for a server again that is away.
const RETRY_MAX: &str = "2s";

/// What an Envoy must be given to become a waypoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bootstrap {
    /// Its id, by which [`super::Xds::standing`] tells Envoys apart.
    pub node: String,
    /// Its cluster's name, for people.
    pub cluster: String,
    /// Where the server listens.
    pub server: Server,
    /// Where Envoy's own admin page listens, a Unix socket, which is abstract if it begins with `@`; none: nowhere.
    pub admin: Option<PathBuf>,
    /// Where Envoy says whether it is ready (`/ready`) and what it counts (`/stats/prometheus`), and nothing else of its admin
    /// page: an address and a port.
    pub status: Option<(String, u16)>,
}

/// Where the server listens that an Envoy asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Server {
    /// At a Unix socket.
    Socket(PathBuf),
    /// Somewhere else, by TLS; either side shows a certificate.
    Tls {
        /// Its name, which is resolved, and which its certificate must say.
        host: String,
        /// Its port.
        port: u16,
        /// The folder of [`CERTIFICATE_FILES`] and [`secret_files`]. Files that take the place of those are used from then on, if
        /// they come by a rename in the folder, as a Secret's do that is mounted.
        folder: PathBuf,
    },
}

/// The chain of the certificate that an Envoy shows, its key, and the authority of the server's; PEM each.
pub const CERTIFICATE_FILES: [&str; 3] = ["tls.crt", "tls.key", "ca.crt"];
/// What names the first two for Envoy, and what the third.
const SECRET_FILES: [&str; 2] = ["certificate.json", "authority.json"];
/// A server that says nothing for so long is asked whether it is there, and has as long to answer.
const KEEP_ALIVE: &str = "4s";

/// What an Envoy must find beside the [`CERTIFICATE_FILES`] of `folder`, by name: which of them is what.
#[must_use]
pub fn secret_files(folder: &Path) -> BTreeMap<&'static str, String> {
    let file = |name: &str| json!({"filename": folder.join(name)});
    let [certificate, key, authority] = CERTIFICATE_FILES;
    let secret = |what: Value| {
        let mut secret =
            json!({"@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"});
        if let (Some(secret), Value::Object(what)) = (secret.as_object_mut(), what) {
            secret.extend(what);
        }
        json!({"resources": [secret]}).to_string()
    };
    let watched = json!({"path": folder});
    BTreeMap::from([
        (
            SECRET_FILES[0],
            secret(json!({"name": SECRET_FILES[0], "tls_certificate": {
                "certificate_chain": file(certificate), "private_key": file(key), "watched_directory": watched}})),
        ),
        (
            SECRET_FILES[1],
            secret(json!({"name": SECRET_FILES[1], "validation_context": {
                "trusted_ca": file(authority), "watched_directory": watched}})),
        ),
    ])
}

impl Server {
    /// The cluster that leads there.
    fn cluster(&self) -> Value {
        let (kind, address, http2) = match self {
            Self::Socket(path) => ("STATIC", pipe(path), json!({})),
            Self::Tls { host, port, .. } => (
                "STRICT_DNS",
                json!({"socket_address": {"address": host, "port_value": port}}),
                json!({"connection_keepalive": {"interval": KEEP_ALIVE, "timeout": KEEP_ALIVE}}),
            ),
        };
        let http2 = json!({"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": http2},
        }});
        let mut cluster = json!({
            "name": SERVER,
            "type": kind,
            "connect_timeout": "1s",
            "typed_extension_protocol_options": http2,
            "load_assignment": endpoint(SERVER, &address),
        });
        if let Self::Tls { host, folder, .. } = self {
            cluster["connect_timeout"] = "5s".into();
            // Otherwise a name with addresses of both families would be looked for at those of IPv6 alone.
            cluster["dns_lookup_family"] = "V4_PREFERRED".into();
            cluster["transport_socket"] = tls(host, folder);
        }
        cluster
    }
}

fn tls(host: &str, folder: &Path) -> Value {
    let secret = |name: &str| {
        json!({"name": name, "sds_config": {
            "resource_api_version": "V3",
            "path_config_source": {"path": folder.join(name), "watched_directory": {"path": folder}}}})
    };
    json!({"name": "envoy.transport_sockets.tls", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        "sni": host,
        "common_tls_context": {
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
            "alpn_protocols": ["h2"],
            "tls_certificate_sds_secret_configs": [secret(SECRET_FILES[0])],
            "combined_validation_context": {
                "default_validation_context": {"match_typed_subject_alt_names": [
                    {"san_type": "DNS", "matcher": {"exact": host}}]},
                "validation_context_sds_secret_config": secret(SECRET_FILES[1]),
            },
        },
    }})
}

fn pipe(path: &Path) -> Value {
    json!({"pipe": {"path": path}})
}

fn endpoint(cluster: &str, address: &Value) -> Value {
    json!({"cluster_name": cluster, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}]})
}

/// A listener that leads to two pages of the admin's, and to nothing else of it.
fn status_listener(address: &str, port: u16) -> Value {
    let route = |path: &str| json!({"match": {"path": path}, "route": {"cluster": ADMIN}});
    let get = json!({"name": ":method", "string_match": {"exact": "GET"}});
    let mut routes = [route("/ready"), route("/stats/prometheus")];
    for route in &mut routes {
        route["match"]["headers"] = json!([get]);
    }
    json!({"name": "kmesh-se-status", "address": {"socket_address": {"address": address, "port_value": port}},
    "filter_chains": [{"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "kmesh_se_status",
        "route_config": {"virtual_hosts": [{"name": "status", "domains": ["*"], "routes": routes}]},
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}],
    }}]}]})
}

/// What Envoy counts: what it does itself, and of each service what its backends get. The hundreds of other counters of a service
/// are most of what it costs an Envoy in time and memory. A service's name has dots, at which Envoy would end it by default.
fn stats() -> Value {
    let service = r"[^|]+\|[^|]+\|\d+(?:\|>.+)?";
    let counters = "membership_(healthy|total)|update_failure\
        |upstream_cx_(active|connect_fail|total|rx_bytes_total|tx_bytes_total)\
        |upstream_rq_(active|retry|time|timeout|total|[1-5]xx)";
    let own = ["cluster_manager.", "control_plane.", "listener_manager.", "server.", "cluster.kmesh-se."];
    let mut patterns: Vec<_> = own.into_iter().map(|prefix| json!({"prefix": prefix})).collect();
    patterns.push(json!({"safe_regex": {"regex": format!(r"cluster\.{service}\.({counters})")}}));
    json!({
        "stats_matcher": {"inclusion_list": {"patterns": patterns}},
        "use_all_default_tags": false,
        "stats_tags": [
            {"tag_name": "envoy.cluster_name", "regex": format!(r"^cluster\.(({service}|[^.|]+)\.)")},
            {"tag_name": "envoy.response_code_class"},
        ],
    })
}

impl Bootstrap {
    /// The configuration, as JSON.
    #[must_use]
    pub fn config(&self) -> Value {
        let ads = json!({"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"});
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
            "stats_config": stats(),
            "static_resources": {"clusters": [self.server.cluster()]},
        });
        if let Some(admin) = &self.admin {
            config["admin"] = json!({"address": pipe(admin)});
        }
        if let (Some(admin), Some((address, port))) = (&self.admin, &self.status) {
            let resources = &mut config["static_resources"];
            resources["listeners"] = json!([status_listener(address, *port)]);
            if let Some(clusters) = resources["clusters"].as_array_mut() {
                clusters.push(json!({"name": ADMIN, "type": "STATIC", "connect_timeout": "1s",
                    "load_assignment": endpoint(ADMIN, &pipe(admin))}));
            }
        }
        config
    }

    /// The flags for an Envoy whose configuration is in the file `config`.
    #[must_use]
    pub fn arguments(config: &Path) -> Vec<String> {
        let path = config.display().to_string();
        FLAGS.into_iter().map(str::to_owned).chain(["--config-path".to_owned(), path]).collect()
    }
}
