//! The controller's flags.
//!
//! In: the command line and `KMESH_SE_…` variables. Out: [`ControllerArgs`]. Never: a default that is not in the help text.

use std::{net::SocketAddr, num::NonZeroU32, path::PathBuf};

use clap::{Args, ValueEnum};

use super::{GatewayArgs, VipArgs, WaypointServerArgs, WebhookArgs};
use crate::health::HealthAddr;

/// Flags of `kmesh-se controller`.
#[derive(Clone, Debug, Args)]
pub struct ControllerArgs {
    /// How to reach the API server. Default: the file that KUBECONFIG names, ~/.kube/config, or the service account of the Pod
    /// that the controller runs in.
    #[arg(long, env = "KMESH_SE_KUBECONFIG", value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,

    /// Where virtual addresses come from.
    #[command(flatten)]
    pub vips: VipArgs,

    /// Whether hosts get addresses from here. `auto`: unless Istio's own allocator is at work, which is known by the field manager
    /// of `status.addresses`.
    #[arg(long, env = "KMESH_SE_ALLOCATE", value_enum, default_value_t, value_name = "WHEN")]
    pub allocate: Allocates,

    /// How many writes of entries and Events the controller sends to the API server in any second, at most. An entry that gets its
    /// addresses is one.
    #[arg(long, env = "KMESH_SE_WRITES_PER_SECOND", value_name = "N", default_value = "250")]
    pub writes_per_second: NonZeroU32,

    /// The name of the Lease by which one of several controllers is chosen.
    #[arg(long, env = "KMESH_SE_LEASE", value_name = "NAME", default_value = "kmesh-se-controller")]
    pub lease: String,

    /// The namespace of the Lease. Default: that of the Pod, or of the kubeconfig.
    #[arg(long, env = "KMESH_SE_LEASE_NAMESPACE", value_name = "NS")]
    pub lease_namespace: Option<String>,

    /// Serve `/healthz` (the loop runs) and `/readyz` (all entries are known) over HTTP at this address, or at a Unix socket. Both
    /// answer 200, or 503 with the reason. Default: nowhere.
    #[arg(long, env = "KMESH_SE_HEALTH", value_name = "ADDR:PORT|unix:PATH")]
    pub health: Option<HealthAddr>,

    /// Serve `/metrics` for Prometheus at this address. Default: nowhere.
    #[arg(long, env = "KMESH_SE_METRICS", value_name = "ADDR:PORT")]
    pub metrics: Option<SocketAddr>,

    /// The webhook.
    #[command(flatten)]
    pub webhook: WebhookArgs,

    /// Waypoints.
    #[command(flatten)]
    pub gateways: GatewayArgs,

    /// What waypoints ask.
    #[command(flatten)]
    pub waypoint_server: WaypointServerArgs,
}

/// When the controller allocates addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Allocates {
    /// Unless Istio's allocator is at work.
    #[default]
    Auto,
    /// Whoever else does.
    Always,
    /// Not at all.
    Never,
}
