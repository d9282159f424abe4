//! Who is asking.
//!
//! In: the calling task's cgroup and its ancestors. Out: its workload, or none. Never: the socket's own cgroup.

use aya_ebpf::helpers::generated::bpf_get_current_ancestor_cgroup_id;
use kmesh_se_common::{
    limits::LEVEL_END,
    maps::{Config, WORKLOAD_EXEMPT, Workload},
};

use crate::maps::{CONFIG, ENROL};

/// The caller's workload and the agent's configuration; none for a task that is not enrolled.
#[inline(always)]
pub(crate) fn caller() -> Option<(&'static Workload, &'static Config)> {
    // SAFETY: an array element lives as long as the map.
    let config: &'static Config = unsafe { &*CONFIG.get_ptr(0)? };
    for level in config.levels {
        if level == LEVEL_END {
            break;
        }
        // SAFETY: any level may be asked for; 0 comes back when the task is not that deep.
        let cgroup = unsafe { bpf_get_current_ancestor_cgroup_id(i32::from(level)) };
        // SAFETY: the agent waits for a grace period before an element is used again.
        if let Some(workload) = unsafe { ENROL.get(cgroup) } {
            if workload.flags & WORKLOAD_EXEMPT != 0 {
                break;
            }
            // SAFETY: as above; the program ends within the grace period.
            return Some((unsafe { &*core::ptr::from_ref(workload) }, config));
        }
    }
    None
}
