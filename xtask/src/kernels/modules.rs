//! Which modules a kernel must be given.
//!
//! In: the texts of `modules.dep` and `modules.builtin`, names. Out: files in the order of loading. Never: I/O.

use std::collections::BTreeMap;

use anyhow::{Context as _, bail};

/// The modules of these names with all that they depend on, each behind what it needs. Those that are built in are left out.
///
/// # Errors
/// When the kernel has a module neither as a file nor built in, or `modules.dep` contradicts itself.
pub(super) fn closure<'a>(dep: &'a str, builtin: &str, wanted: &[&str]) -> anyhow::Result<Vec<&'a str>> {
    let needs: BTreeMap<&str, Vec<&str>> = dep
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(file, needs)| (file, needs.split_whitespace().collect()))
        .collect();
    let mut order = Vec::new();
    for name in wanted {
        if let Some(file) = needs.keys().find(|file| is_named(file, name)) {
            visit(file, &needs, &mut order, &mut Vec::new())?;
        } else if !builtin.lines().any(|file| is_named(file, name)) {
            bail!("this kernel has no module {name}");
        }
    }
    Ok(order)
}

fn visit<'a>(
    file: &'a str,
    needs: &BTreeMap<&'a str, Vec<&'a str>>,
    order: &mut Vec<&'a str>,
    path: &mut Vec<&'a str>,
) -> anyhow::Result<()> {
    if order.contains(&file) {
        return Ok(());
    }
    if path.contains(&file) {
        bail!("modules.dep: {file} depends on itself");
    }
    path.push(file);
    for other in needs.get(file).with_context(|| format!("modules.dep does not list {file}"))? {
        visit(other, needs, order, path)?;
    }
    path.pop();
    order.push(file);
    Ok(())
}

/// Whether `kernel/net/a-b.ko.xz` is the module `a_b`: both spellings mean the same.
fn is_named(file: &str, name: &str) -> bool {
    let base = file.rsplit('/').next().unwrap_or(file);
    let base = base.split_once(".ko").map_or(base, |(base, _)| base);
    base.replace('-', "_") == name.replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEP: &str = "kernel/net/bridge/bridge.ko.xz: kernel/net/802/stp.ko.xz kernel/net/llc/llc.ko.xz\n\
        kernel/net/802/stp.ko.xz: kernel/net/llc/llc.ko.xz\n\
        kernel/net/llc/llc.ko.xz:\n\
        kernel/drivers/net/veth.ko.xz:\n\
        kernel/net/ip6-tunnel.ko:\n";

    #[test]
    fn a_module_comes_behind_all_that_it_needs() -> anyhow::Result<()> {
        assert_eq!(
            closure(DEP, "", &["bridge", "veth", "stp"])?,
            [
                "kernel/net/llc/llc.ko.xz",
                "kernel/net/802/stp.ko.xz",
                "kernel/net/bridge/bridge.ko.xz",
                "kernel/drivers/net/veth.ko.xz",
            ]
        );
        Ok(())
    }

    #[test]
    fn a_module_that_is_built_in_needs_no_file() -> anyhow::Result<()> {
        assert_eq!(closure(DEP, "kernel/net/ipv6/ipv6.ko\n", &["ipv6"])?, [""; 0]);
        Ok(())
    }

    #[test]
    fn dash_and_underscore_are_the_same() -> anyhow::Result<()> {
        assert_eq!(closure(DEP, "", &["ip6_tunnel"])?, ["kernel/net/ip6-tunnel.ko"]);
        Ok(())
    }

    #[test]
    fn says_what_is_not_there() {
        let error = closure(DEP, "", &["dummy"]).expect_err("there is none");
        assert_eq!(error.to_string(), "this kernel has no module dummy");
        let error = closure("a.ko: b.ko\n", "", &["a"]).expect_err("b is not listed");
        assert_eq!(error.to_string(), "modules.dep does not list b.ko");
        let error = closure("a.ko: b.ko\nb.ko: a.ko\n", "", &["a"]).expect_err("a circle");
        assert_eq!(error.to_string(), "modules.dep: a.ko depends on itself");
    }
}
