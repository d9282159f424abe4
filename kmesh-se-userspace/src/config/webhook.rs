//! The flags of the controller's webhook.
//!
//! In: the command line and `KMESH_SE_…` variables. Out: [`WebhookArgs`]. Never: a default that is not in the help text.

use std::net::SocketAddr;

use clap::Args;

/// Flags of the webhook of `kmesh-se controller`.
#[derive(Clone, Debug, Args)]
pub struct WebhookArgs {
    /// Serve a validating admission webhook over TLS at this address, path `/validate`: it says of ServiceEntries and
    /// WorkloadEntries what `kmesh-se validate` says. Default: nowhere.
    #[arg(long, env = "KMESH_SE_WEBHOOK", value_name = "ADDR:PORT")]
    pub webhook: Option<SocketAddr>,

    /// Keep the caBundle of the ValidatingWebhookConfiguration of this name as the webhook's certificates need it, and change
    /// nothing else of it. Default: none is touched.
    #[arg(long, env = "KMESH_SE_WEBHOOK_CONFIG", value_name = "NAME", requires = "webhook")]
    pub webhook_config: Option<String>,

    /// A name, or an address, by which the API server calls the webhook; for each one flag. Default: that of a Service
    /// kmesh-se-webhook in the namespace of the Lease, kmesh-se-webhook.NS.svc.
    #[arg(
        long = "webhook-host",
        env = "KMESH_SE_WEBHOOK_HOST",
        value_name = "HOST",
        value_delimiter = ',',
        requires = "webhook"
    )]
    pub webhook_hosts: Vec<String>,

    /// The Secret, in the namespace of the Lease, in which the controllers keep the webhook's certificates. They make these
    /// themselves, and new ones in time.
    #[arg(long, env = "KMESH_SE_WEBHOOK_SECRET", value_name = "NAME", default_value = "kmesh-se-webhook")]
    pub webhook_secret: String,

    /// For how long a certificate of the webhook counts; it is replaced when a third is left. Its authority counts for four times
    /// as long.
    #[arg(
        long,
        env = "KMESH_SE_WEBHOOK_LIFETIME",
        value_name = "SECONDS",
        default_value_t = 7_776_000,
        value_parser = clap::value_parser!(u32).range(10..=315_360_000)
    )]
    pub webhook_lifetime: u32,
}
