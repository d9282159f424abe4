//! Who is asking.
//!
//! In: the calling task's cgroup and its ancestors. Out: its workload, or none. Never: the socket's own cgroup.

use aya_ebpf::helpers::generated::bpf_get_current_ancestor_cgroup_id;
use kmesh_se_common::{
    limits::{ENROL_PLACES, LEVEL_END},
    maps::{Config, ENROL_ASK, WORKLOAD_EXEMPT, Workload},
};

use crate::maps::{CONFIG, ENROL, ENROL_PLACE};

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
        // An empty place has the cgroup 0, too.
        if cgroup == 0 {
            continue;
        }
        if let Some(workload) = workload(cgroup) {
            if workload.flags & WORKLOAD_EXEMPT != 0 {
                break;
            }
            return Some((workload, config));
        }
    }
    None
}

/// The workload of an enrolled cgroup, mostly by one load.
#[inline(always)]
fn workload(cgroup: u64) -> Option<&'static Workload> {
    let place = ENROL_PLACE.get_ptr(cgroup as u32 & (ENROL_PLACES - 1))?;
    // SAFETY: an array element lives as long as the map. Its workload is written while nobody can be reading it: a grace
    // period after the cgroup was taken from it.
    let (holder, workload) = unsafe { ((&raw const (*place).cgroup).read_volatile(), &(*place).workload) };
    if holder == cgroup {
        return Some(workload);
    }
    if holder != ENROL_ASK {
        return None;
    }
    // SAFETY: the agent waits for a grace period before an element is used again, and the program ends within it.
    unsafe { ENROL.get(cgroup).map(|workload| &*core::ptr::from_ref(workload)) }
}
