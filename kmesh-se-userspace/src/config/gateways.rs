//! The flags of the controller's waypoints.
//!
//! In: the command line and `KMESH_SE_…` variables. Out: [`GatewayArgs`]. Never: a default that is not in the help text.

use clap::Args;

/// Flags of the waypoints that `kmesh-se controller` deploys.
#[derive(Clone, Debug, Args)]
pub struct GatewayArgs {
    /// Deploy a waypoint, unmodified Envoys, for each Gateway (gateway.networking.k8s.io/v1) of the class kmesh-se-waypoint.
    #[arg(long, env = "KMESH_SE_WAYPOINTS")]
    pub waypoints: bool,

    /// The image of the Envoys of waypoints: Envoy is at /usr/local/bin/envoy in it, as in the images of its project.
    #[arg(
        long,
        env = "KMESH_SE_WAYPOINT_IMAGE",
        value_name = "IMAGE",
        default_value = "docker.io/envoyproxy/envoy:distroless-v1.40.0"
    )]
    pub waypoint_image: String,

    /// By which name waypoints reach the controllers for what they serve; also what the controllers' certificate must say.
    /// Default: that of a Service kmesh-se-controller-xds in the namespace of the Lease, kmesh-se-controller-xds.NS.svc.
    #[arg(long, env = "KMESH_SE_WAYPOINT_XDS_HOST", value_name = "HOST")]
    pub waypoint_xds_host: Option<String>,

    /// At which port of that name.
    #[arg(long, env = "KMESH_SE_WAYPOINT_XDS_PORT", value_name = "PORT", default_value_t = 15010)]
    pub waypoint_xds_port: u16,
}

impl GatewayArgs {
    /// By which name waypoints reach controllers whose Lease is in `namespace`.
    #[must_use]
    pub fn xds_host(&self, namespace: &str) -> String {
        let given = self.waypoint_xds_host.clone();
        given.unwrap_or_else(|| format!("kmesh-se-controller-xds.{namespace}.svc"))
    }
}
