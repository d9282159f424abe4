//! The flags about pods.
//!
//! In: the command line. Out: [`PodSettings`]. Never: a look at a pod.

use clap::Args;

use crate::pods::{PodSettings, RuntimeClass};

/// Which pods are handled.
#[derive(Clone, Debug, Args)]
pub struct PodArgs {
    /// Enrol the pods of this node whose label, or whose namespace's label, `istio.io/dataplane-mode` asks for it. They are
    /// found in the cgroup tree by their ids. The DNS server then serves only them, the node itself where somebody there is
    /// enrolled, and nobody else. Default: with --source kube.
    #[arg(
        long,
        env = "KMESH_SE_ENROL_PODS",
        value_name = "true|false",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    pub enrol_pods: Option<bool>,

    /// The value of the label `istio.io/dataplane-mode` that is meant for this agent, compared without case. The pod's own
    /// label wins over the namespace's; `none` opts out.
    #[arg(long, env = "KMESH_SE_DATAPLANE_MODE", value_name = "VALUE", default_value = "Kmesh")]
    pub dataplane_mode: String,

    /// Enrol also labelled pods that are in the node's network namespace.
    #[arg(long, env = "KMESH_SE_ENROL_HOST_NETWORK")]
    pub enrol_host_network: bool,

    /// A runtime class whose pods run in a kernel of their own (or in one made of a process), where nothing can be done for
    /// them; a `*` at the end stands for any rest. May be repeated, and replaces the default.
    #[arg(long, env = "KMESH_SE_VM_RUNTIME", value_name = "CLASS", value_delimiter = ',', default_values = ["kata*", "gvisor*", "runsc*"])]
    pub vm_runtime: Vec<RuntimeClass>,
}

impl PodArgs {
    /// What they mean.
    #[must_use]
    pub fn settings(&self) -> PodSettings {
        PodSettings {
            mode: self.dataplane_mode.clone(),
            host_network: self.enrol_host_network,
            vm_runtimes: self.vm_runtime.clone(),
        }
    }
}
