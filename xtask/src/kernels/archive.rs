//! Debian's kernels, from the archive that this machine's own package sources name.
//!
//! In: a suite, a folder. Out: a kernel's image and modules in that folder. Never: a package installed on this machine, or
//! a change to its package sources or lists.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

use super::modules;

/// The package that depends on a suite's newest kernel for virtual machines.
const NEWEST: &str = "linux-image-cloud-amd64";
/// Debian's keys, where its package puts them.
const KEYS: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// A kernel, unpacked.
pub(super) struct Installed {
    /// What `uname -r` says.
    pub(super) release: String,
    /// The package's version.
    pub(super) version: String,
    /// The kernel itself.
    pub(super) image: PathBuf,
    modules: PathBuf,
}

impl Installed {
    /// Finds a suite's kernel in `folder`, or fetches it if it is not there or is to be refreshed.
    ///
    /// # Errors
    /// When apt cannot fetch it, or the packages hold no kernel.
    pub(super) fn obtain(suite: &str, folder: &Path, refresh: bool) -> anyhow::Result<Installed> {
        // Written last.
        let stamp = folder.join("version");
        if refresh || !stamp.is_file() {
            fetch(suite, folder).with_context(|| format!("no kernel of Debian {suite}"))?;
        }
        let version = fs::read_to_string(&stamp).context("the kernel's version is not noted")?;
        let all = folder.join("root/lib/modules");
        let modules = fs::read_dir(&all).with_context(|| format!("cannot read {}", all.display()))?.next();
        let modules = modules.context("the package has no modules")??.path();
        let release = modules.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let places = [folder.join("root/boot").join(format!("vmlinuz-{release}")), modules.join("vmlinuz")];
        let image = places.into_iter().find(|file| file.is_file()).context("the packages hold no kernel")?;
        Ok(Installed { release, version: version.trim().to_owned(), image, modules })
    }

    /// The files of these modules and of those that they need, in the order of loading.
    ///
    /// # Errors
    /// When the kernel does not have one.
    pub(super) fn module_files(&self, wanted: &[&str]) -> anyhow::Result<Vec<PathBuf>> {
        let read = |name| fs::read_to_string(self.modules.join(name));
        let dep = read("modules.dep").context("cannot read modules.dep")?;
        let builtin = read("modules.builtin").unwrap_or_default();
        let files = modules::closure(&dep, &builtin, wanted)?;
        Ok(files.into_iter().map(|file| self.modules.join(file)).collect())
    }
}

fn fetch(suite: &str, folder: &Path) -> anyhow::Result<()> {
    println!("kernels: fetching the kernel of Debian {suite} …");
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    let apt = Apt::new(suite, folder)?;
    apt.run("apt-get", &["update"])?;
    let depends = apt.run("apt-cache", &["depends", NEWEST])?;
    let image = depended(&depends, &["linux-image-"]);
    let image = image.first().with_context(|| format!("{NEWEST} depends on no kernel:\n{depends}"))?;
    // Newer suites have the kernel and its modules in packages of their own.
    let parts = apt.run("apt-cache", &["depends", image])?;
    let mut packages = vec!["download", image];
    packages.extend(depended(&parts, &["linux-binary-", "linux-modules-"]));
    apt.run("apt-get", &packages)?;

    let root = folder.join("root");
    let mut version = None;
    for file in fs::read_dir(&apt.packages)? {
        let file = file?.path();
        checked(Command::new("dpkg-deb").arg("-x").arg(&file).arg(&root))?;
        version = Some(checked(Command::new("dpkg-deb").arg("-f").arg(&file).arg("Version"))?);
        fs::remove_file(&file)?;
    }
    let version = version.context("apt-get downloaded nothing")?;
    let (lib, usr) = (root.join("lib"), root.join("usr/lib"));
    if !lib.exists() && usr.is_dir() {
        std::os::unix::fs::symlink("usr/lib", &lib)?;
    }
    for release in fs::read_dir(lib.join("modules")).context("the packages have no modules")? {
        let release = release?.file_name();
        let depmod = crate::setup::find_program("depmod").context("no depmod")?;
        checked(Command::new(depmod).arg("-b").arg(&root).arg(release))?;
    }
    fs::write(folder.join("version"), version).context("cannot note the version")
}

/// apt with sources, lists and caches of its own.
struct Apt {
    options: Vec<String>,
    packages: PathBuf,
}

impl Apt {
    fn new(suite: &str, folder: &Path) -> anyhow::Result<Apt> {
        let mut targets = Command::new("apt-get");
        targets.args(["indextargets", "--format", "$(ORIGIN)|$(LABEL)|$(REPO_URI)", "Created-By: Packages"]);
        let targets = checked(&mut targets)?;
        let uri = mirror(&targets)
            .context("apt's lists know no archive of Debian: on Debian, run apt-get update as root")?;
        let [lists, cache, packages] = ["lists", "cache", "packages"].map(|name| folder.join(name));
        for folder in [&lists.join("partial"), &cache.join("archives/partial"), &packages] {
            fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        let source = folder.join("sources.list");
        let signed = if Path::new(KEYS).is_file() { format!("[signed-by={KEYS}] ") } else { String::new() };
        fs::write(&source, format!("deb {signed}{uri} {suite} main\n"))?;
        let options = [
            format!("Dir::Etc::SourceList={}", source.display()),
            "Dir::Etc::SourceParts=/dev/null".to_owned(),
            format!("Dir::State::Lists={}", lists.display()),
            format!("Dir::Cache={}", cache.display()),
            // What is installed here has nothing to do with it.
            "Dir::State::Status=/dev/null".to_owned(),
            "Acquire::Languages=none".to_owned(),
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".to_owned(),
            // The user that apt downloads as may not write here.
            "APT::Sandbox::User=root".to_owned(),
        ];
        Ok(Apt { options: options.into(), packages })
    }

    fn run(&self, program: &str, words: &[&str]) -> anyhow::Result<String> {
        let mut command = Command::new(program);
        for option in &self.options {
            command.args(["-o", option]);
        }
        checked(command.args(words).current_dir(&self.packages))
    }
}

/// Runs a command and answers what it prints.
fn checked(command: &mut Command) -> anyhow::Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    command.env("LC_ALL", "C").stdin(Stdio::null());
    let output = command.output().with_context(|| format!("cannot run {name}"))?;
    if !output.status.success() {
        bail!("{name} ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Where the Debian archive is, by the lines `origin|label|URI` of `apt-get indextargets`.
fn mirror(targets: &str) -> Option<&str> {
    targets.lines().find_map(|line| line.strip_prefix("Debian|Debian|"))
}

/// The packages of these prefixes that `apt-cache depends` names as needed.
fn depended<'a>(text: &'a str, prefixes: &[&str]) -> Vec<&'a str> {
    let named = text.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    named.filter(|name| prefixes.iter().any(|prefix| name.starts_with(prefix))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_the_archive_that_is_debians_own() {
        let targets = "Other|Tools|http://tools.test/apt/\n\
            Debian|Debian-Security|http://mirror.test/debian-security/\n\
            Debian|Debian|http://mirror.test/debian/\n\
            Debian|Debian|http://second.test/debian/\n";
        assert_eq!(mirror(targets), Some("http://mirror.test/debian/"));
        assert_eq!(mirror("Ubuntu|Ubuntu|http://mirror.test/ubuntu/\n"), None);
    }

    #[test]
    fn takes_the_packages_that_hold_the_kernel() {
        let text = "linux-image-7.2.1-cloud-amd64\n  PreDepends: linux-base\n |Depends: dracut\n  \
            Depends: linux-base-7.2.1-cloud-amd64\n  Depends: linux-binary-7.2.1-cloud-amd64\n  \
            Depends: linux-modules-7.2.1-cloud-amd64\n  Breaks: linux-modules-extra\n  Suggests: linux-doc-7.2\n";
        let packages = depended(text, &["linux-binary-", "linux-modules-"]);
        assert_eq!(packages, ["linux-binary-7.2.1-cloud-amd64", "linux-modules-7.2.1-cloud-amd64"]);
    }
}
