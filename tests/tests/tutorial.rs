//! The tutorial's questions, answered by the real httpbin through the kernel.

use anyhow::Context as _;
use tests::stage::Stage;
use tests::topology::{Options, SLEEP};
use tests::tutorial;

fn with_examples() -> anyhow::Result<Stage> {
    let entries = tutorial::entries()?;
    Stage::start(Options::default(), &entries.each_ref().map(|(name, text)| (*name, text.as_str())))
}

#[test]
fn answers_come_from_httpbin_which_sees_the_client_itself() -> anyhow::Result<()> {
    let stage = with_examples()?;
    tutorial::ask(|words| stage.says(true, words), &SLEEP.to_string())
        .with_context(|| stage.agent.log_tail())?;
    let clients = stage.topology.httpbin.as_ref().expect("it was started").clients(5)?;
    assert_eq!(clients, vec![SLEEP.to_string(); 5]);
    Ok(())
}

#[test]
fn many_requests_at_once_are_all_answered() -> anyhow::Result<()> {
    let stage = with_examples()?;
    let mut command = vec!["curl", "-sZ", "--parallel-immediate", "-o", "/dev/null", "-w", "%{http_code}\\n"];
    command.extend(["http://kmesh-fake.com/status/200?n=[1-50]"]);
    let (well, codes) = stage.says(true, &command)?;
    assert!(well, "{codes}");
    assert_eq!(codes, "200\n".repeat(50));
    Ok(())
}
