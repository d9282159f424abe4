//! `kmesh-se man`: manual pages.
//!
//! In: the definition of the command line. Out: roff. Never: text that the help does not have.

use std::{fs, io::Write, path::PathBuf};

use anyhow::Context;
use clap::CommandFactory;
use clap_mangen::Man;

use super::{Answer, Cli, Output};

/// Print a manual page, or write all of them.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Example:\n  kmesh-se man explain | man -l -")]
pub struct Args {
    /// The command that the page is about; without one, kmesh-se itself.
    #[arg(value_name = "COMMAND")]
    command: Option<String>,

    /// Write the pages of all commands into this folder instead, as `kmesh-se-COMMAND.1`.
    #[arg(long, env = "KMESH_SE_MAN_DIR", value_name = "DIR", conflicts_with = "command")]
    dir: Option<PathBuf>,
}

/// Runs the command.
///
/// # Errors
/// When there is no such command, or a file cannot be written.
pub(super) fn run(args: Args, output: &mut Output) -> anyhow::Result<Answer> {
    let mut pages = pages();
    if let Some(dir) = args.dir {
        for page in &pages {
            let path = dir.join(page.get_filename());
            let write = || fs::File::create(&path).and_then(|mut file| page.render(&mut file));
            write().with_context(|| format!("cannot write {}", path.display()))?;
        }
        return Ok(Answer::Yes);
    }
    let name =
        args.command.map_or_else(|| "kmesh-se.1".to_owned(), |command| format!("kmesh-se-{command}.1"));
    let at = pages.iter().position(|page| page.get_filename() == name);
    let at = at.with_context(|| {
        let command = name.trim_start_matches("kmesh-se-").trim_end_matches(".1");
        format!("there is no command `{command}`; see kmesh-se --help")
    })?;
    let mut roff = Vec::new();
    pages.swap_remove(at).render(&mut roff)?;
    let roff = String::from_utf8(roff)?;
    output.print(&roff, |roff, out| out.write_all(roff.as_bytes()))?;
    Ok(Answer::Yes)
}

fn pages() -> Vec<Man> {
    let mut main = Cli::command();
    main.build();
    let commands = main.get_subcommands().filter(|command| command.get_name() != "help").cloned();
    let commands: Vec<_> = commands.collect();
    std::iter::once(main).chain(commands).map(Man::new).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Format, output::Shared};

    #[test]
    fn each_command_has_a_page_with_its_flags() {
        let shared = Shared::default();
        let args = Args { command: Some("explain".to_owned()), dir: None };
        run(args, &mut Output::to(shared.clone(), Format::Text)).expect("a page");
        assert!(shared.text().contains(".TH kmesh-se-explain 1"), "{}", shared.text());
        assert!(shared.text().contains("KMESH_SE_NAMESPACE"), "{}", shared.text());
        let args = Args { command: Some("nonsense".to_owned()), dir: None };
        let error = run(args, &mut Output::to(Shared::default(), Format::Text)).expect_err("no such command");
        assert!(error.to_string().contains("`nonsense`"), "{error}");
    }

    #[test]
    fn all_pages_go_into_a_folder() {
        let dir = tempfile::tempdir().expect("a folder");
        let args = Args { command: None, dir: Some(dir.path().to_owned()) };
        run(args, &mut Output::to(Shared::default(), Format::Text)).expect("written");
        for page in ["kmesh-se.1", "kmesh-se-agent.1", "kmesh-se-status.1"] {
            assert!(dir.path().join(page).is_file(), "{page}");
        }
    }
}
