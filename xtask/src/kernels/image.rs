//! The file system that an emulated machine starts with.
//!
//! In: programs of this machine. Out: an archive that a kernel unpacks into memory and whose `/init` runs the tests. Never:
//! a program at another path than here: the test executable knows its helper by that.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

use super::boot::MARKER;

/// A folder that becomes the archive.
pub(super) struct Image {
    folder: PathBuf,
}

impl Image {
    /// An empty one.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub(super) fn begin(folder: &Path) -> anyhow::Result<Image> {
        if folder.exists() {
            fs::remove_dir_all(folder).with_context(|| format!("cannot remove {}", folder.display()))?;
        }
        for name in ["bin", "dev", "etc", "proc", "root", "run", "sys", "tmp"] {
            let folder = folder.join(name);
            fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        Ok(Image { folder: folder.to_owned() })
    }

    /// Copies a program, without its symbols, and the libraries that it names.
    ///
    /// # Errors
    /// When one cannot be copied.
    pub(super) fn program(&mut self, path: &Path) -> anyhow::Result<()> {
        let to = self.copy(path)?;
        // Emulated memory is filled slowly; a program that cannot be stripped works as well.
        let _ = Command::new("strip").arg(&to).stderr(Stdio::null()).status();
        // It fails for programs without libraries.
        let ldd = Command::new("ldd").arg(path).env("LC_ALL", "C").output().context("cannot run ldd")?;
        for library in libraries(&String::from_utf8_lossy(&ldd.stdout))? {
            self.copy(Path::new(library))?;
        }
        Ok(())
    }

    /// Writes what programs look for in `/etc`, and the script that runs the tests.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub(super) fn settle(&mut self, agent: &Path, test: &Path, arguments: &[String]) -> anyhow::Result<()> {
        self.write("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n")?;
        self.write("etc/group", "root:x:0:\n")?;
        self.write("etc/hosts", "127.0.0.1 localhost\n::1 localhost\n")?;
        self.write("etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\n")?;
        let busybox = crate::setup::find_program("busybox").context("no busybox")?;
        let words: Vec<String> = arguments.iter().map(|word| quoted(word)).collect();
        let script = INIT
            .replace("@busybox@", &busybox.display().to_string())
            .replace("@agent@", &quoted(&agent.display().to_string()))
            .replace("@test@", &quoted(&test.display().to_string()))
            .replace("@marker@", MARKER)
            .replace("@slowness@", ::tests::poll::SLOWNESS)
            .replace("@arguments@", &words.join(" "));
        let init = self.write("init", &script)?;
        fs::set_permissions(&init, fs::Permissions::from_mode(0o755)).context("cannot make /init a program")
    }

    /// Makes the archive, with these modules to be loaded in this order.
    ///
    /// # Errors
    /// When a module cannot be unpacked, or `cpio` fails.
    pub(super) fn pack(&self, modules: &[PathBuf], to: &Path) -> anyhow::Result<()> {
        let folder = self.folder.join("modules");
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        fs::create_dir(&folder)?;
        for (number, module) in modules.iter().enumerate() {
            fs::write(folder.join(format!("{number:03}.ko")), unpacked(module)?)?;
        }
        let archive = fs::File::create(to).with_context(|| format!("cannot write {}", to.display()))?;
        let mut cpio = Command::new("cpio");
        cpio.args(["--create", "--format=newc", "--null", "--quiet"]).current_dir(&self.folder);
        let mut cpio = cpio.stdin(Stdio::piped()).stdout(archive).spawn().context("cannot run cpio")?;
        let mut names = Vec::new();
        list(&self.folder, Path::new(""), &mut names)?;
        cpio.stdin.take().context("no stdin")?.write_all(&names)?;
        let status = cpio.wait()?;
        if !status.success() {
            bail!("cpio ended with {status}");
        }
        Ok(())
    }

    fn copy(&self, path: &Path) -> anyhow::Result<PathBuf> {
        let to = self.folder.join(path.strip_prefix("/").unwrap_or(path));
        if let Some(folder) = to.parent() {
            fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        if !to.exists() {
            fs::copy(path, &to).with_context(|| format!("cannot copy {}", path.display()))?;
        }
        Ok(to)
    }

    fn write(&self, name: &str, text: &str) -> anyhow::Result<PathBuf> {
        let path = self.folder.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }
}

/// The first program. What it says goes to the second serial port, so that the kernel's messages do not come between. Nothing is
/// mounted on `/tmp`: the programs may lie below it, and the root is in memory already.
const INIT: &str = r#"#!@busybox@ sh
b=@busybox@
$b mount -t devtmpfs devtmpfs /dev
exec </dev/null >/dev/ttyS1 2>&1
finish() {
    echo "@marker@ $1"
    $b sync
    $b poweroff -f
}
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TMPDIR=/tmp
$b mount -t proc proc /proc &&
    $b mount -t sysfs sysfs /sys &&
    $b mount -t tmpfs tmpfs /run &&
    $b mount -t cgroup2 cgroup2 /sys/fs/cgroup &&
    $b mount -t bpf bpf /sys/fs/bpf || finish 125
for module in /modules/*.ko; do
    [ ! -e "$module" ] || $b insmod "$module" || finish 124
done
ip link set lo up || finish 123
export KMESH_SE_BIN=@agent@ @slowness@=10
@test@ --test-threads=1 @arguments@
finish $?
"#;

/// Where the loader finds the libraries, by the lines of `ldd`.
///
/// # Errors
/// When one is not on this machine.
fn libraries(ldd: &str) -> anyhow::Result<Vec<&str>> {
    let mut found = Vec::new();
    for line in ldd.lines().map(str::trim) {
        let (name, path) = line.split_once(" => ").unwrap_or((line, line));
        let path = path.split(" (").next().unwrap_or(path).trim();
        if path == "not found" {
            bail!("the library {name} is not on this machine");
        }
        // The kernel's own library is no file.
        if path.starts_with('/') {
            found.push(path);
        }
    }
    Ok(found)
}

/// A module's content: suites differ in whether and how they compress them.
fn unpacked(module: &Path) -> anyhow::Result<Vec<u8>> {
    let packer = match module.extension().and_then(|e| e.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        Some("gz") => "gzip",
        _ => return fs::read(module).with_context(|| format!("cannot read {}", module.display())),
    };
    let output = Command::new(packer).arg("-dc").arg(module).output();
    let output = output.with_context(|| format!("cannot run {packer}"))?;
    if !output.status.success() {
        bail!("{packer} cannot unpack {}: {}", module.display(), String::from_utf8_lossy(&output.stderr));
    }
    Ok(output.stdout)
}

/// All names below a folder, each ended by a zero byte, folders before what they hold.
fn list(root: &Path, below: &Path, names: &mut Vec<u8>) -> anyhow::Result<()> {
    let mut entries: Vec<_> = fs::read_dir(root.join(below))?.collect::<Result<_, _>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let name = below.join(entry.file_name());
        names.extend_from_slice(name.as_os_str().as_encoded_bytes());
        names.push(0);
        if entry.file_type()?.is_dir() {
            list(root, &name, names)?;
        }
    }
    Ok(())
}

/// A word that a shell takes as it is.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_libraries_that_ldd_names() -> anyhow::Result<()> {
        let ldd = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\
            \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        assert_eq!(libraries(ldd)?, ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"]);
        assert_eq!(libraries("\tnot a dynamic executable\n")?, [""; 0]);
        let error = libraries("\tlibbpf.so.1 => not found\n").expect_err("it is not there");
        assert_eq!(error.to_string(), "the library libbpf.so.1 is not on this machine");
        Ok(())
    }

    #[test]
    fn a_shell_takes_quoted_words_as_they_are() -> anyhow::Result<()> {
        let word = "it's $HOME; exit\n1";
        let output = Command::new("sh").args(["-c", &format!("printf %s {}", quoted(word))]).output()?;
        assert_eq!(String::from_utf8(output.stdout)?, word);
        Ok(())
    }
}
