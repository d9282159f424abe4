//! One agent after another: none of the clients notices.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use serde_json::Value;
use tests::agent::{Agent, Flags};
use tests::entries::dns_entry;
use tests::poll;
use tests::stage::{Stage, tools_folder};
use tests::topology::{BACKEND, BACKEND_2, DNS, NODE, Options, v6};

const QUIET: Options =
    Options { httpbin: false, ttl_secs: 1, records: &[("backend.test", BACKEND), ("plain.test", BACKEND_2)] };

/// Asks 200 times a second until a file appears, then prints what became of the queries as JSON: by UDP sockets of every
/// kind, and every tenth by TCP; for a name of ours and one that is forwarded; over both families.
const LOAD: &str = r"
import itertools, json, os, selectors, socket, struct, sys, threading, time
stop, resolvers, ours, plain = sys.argv[1], sys.argv[2].split(','), sys.argv[3], sys.argv[4]
LIMIT = 5

def question(number, name):
    labels = b''.join(bytes([len(part)]) + part.encode() for part in name.split('.'))
    return struct.pack('>HHHHHH', number, 0x100, 1, 0, 0, 0) + labels + b'\0' + struct.pack('>HH', 1, 1)

def address(answer):
    return socket.inet_ntoa(answer[-4:]) if struct.unpack('>H', answer[6:8])[0] else 'rcode %d' % (answer[3] & 15)

def family(resolver):
    return socket.AF_INET6 if ':' in resolver else socket.AF_INET

wanted = {'fake.test': ours, 'plain.test': plain}
took, wrong, lost = [], [], []

def over_tcp():
    for number in itertools.count():
        if os.path.exists(stop):
            return
        began, name, resolver = time.monotonic(), ('fake.test', 'plain.test')[number % 2], resolvers[number // 2 % 2]
        try:
            with socket.create_connection((resolver, 53), LIMIT) as client:
                text = question(number % 65536, name)
                client.sendall(struct.pack('>H', len(text)) + text)
                stream = client.makefile('rb')
                answer = stream.read(struct.unpack('>H', stream.read(2))[0])
            took.append(time.monotonic() - began)
            if address(answer) != wanted[name]:
                wrong.append(('tcp', name, address(answer)))
        except Exception as error:
            lost.append(('tcp', name, repr(error)))
        time.sleep(max(0, began + 0.05 - time.monotonic()))

def over_udp():
    selector, waiting = selectors.DefaultSelector(), {}
    began = time.monotonic()
    for number in itertools.count():
        ends = os.path.exists(stop)
        if ends and not waiting:
            return
        if not ends:
            name, resolver = ('fake.test', 'plain.test')[number % 2], resolvers[number // 2 % 2]
            client = socket.socket(family(resolver), socket.SOCK_DGRAM)
            if number // 4 % 2:
                client.connect((resolver, 53))
                client.send(question(number % 65536, name))
            else:
                client.sendto(question(number % 65536, name), (resolver, 53))
            waiting[client] = (time.monotonic(), name, number)
            selector.register(client, selectors.EVENT_READ)
        due = began + 0.00555 * (number + 1)
        while True:
            for key, _ in selector.select(max(0, due - time.monotonic())):
                client = key.fileobj
                asked, name, number = waiting.pop(client)
                selector.unregister(client)
                try:
                    answer = client.recv(512)
                    took.append(time.monotonic() - asked)
                    if address(answer) != wanted[name] or struct.unpack('>H', answer[:2])[0] != number % 65536:
                        wrong.append(('udp', name, address(answer)))
                except Exception as error:
                    lost.append(('udp', name, repr(error)))
                client.close()
            if time.monotonic() >= due:
                break
        for client, (asked, name, number) in list(waiting.items()):
            if time.monotonic() - asked > LIMIT:
                lost.append(('udp', name, 'silence'))
                del waiting[client]
                selector.unregister(client)

threads = [threading.Thread(target=work) for work in (over_tcp, over_udp)]
for thread in threads:
    thread.start()
print('asking', flush=True)
began = time.monotonic()
for thread in threads:
    thread.join()
print(json.dumps({'answered': len(took), 'slowest': max(took), 'wrong': wrong, 'lost': lost, 'seconds': time.monotonic() - began}))
";

fn with_both_families() -> anyhow::Result<Stage> {
    let entry = dns_entry("fake", "fake.test", Some(("backend.test", 9000)));
    Stage::start_with(QUIET, &[("fake.yaml", &entry)], |flags| {
        let more = ["--dns-listen", &format!("[{}]:15053", v6(NODE)), "--resolver", &v6(DNS).to_string()];
        flags.more.extend(more.map(str::to_owned));
    })
}

fn vip(stage: &Stage) -> anyhow::Result<String> {
    let (_, text) = stage.says(true, &["getent", "ahostsv4", "fake.test"])?;
    Ok(text.split_whitespace().next().context("fake.test does not resolve")?.to_owned())
}

/// What [`LOAD`] tells when it ran while `work` did.
fn under_load(
    stage: &mut Stage,
    work: impl FnOnce(&mut Stage) -> anyhow::Result<()>,
) -> anyhow::Result<Value> {
    let stop = stage.run.folder()?.join("stop-load");
    let python = tools_folder().join("httpbin/bin/python3").display().to_string();
    let resolvers = format!("{DNS},{}", v6(DNS));
    let (vip, plain) = (vip(stage)?, BACKEND_2.to_string());
    let words = [&python, "-c", LOAD, &stop.display().to_string(), &resolvers, &vip, &plain];
    let mut client = stage.client(true, &words).stdout(Stdio::piped()).spawn()?;
    let mut lines = BufReader::new(client.stdout.take().context("stdout")?).lines();
    assert_eq!(lines.next().context("the client ended")??, "asking");
    work(stage)?;
    std::fs::write(&stop, "")?;
    let told = lines.next().context("the client told nothing")??;
    client.wait()?;
    std::fs::remove_file(&stop)?;
    Ok(serde_json::from_str(&told)?)
}

#[test]
fn no_query_is_lost_or_slow_while_one_agent_takes_over_from_another() -> anyhow::Result<()> {
    let mut stage = with_both_families()?;
    let told = under_load(&mut stage, |stage| {
        for _ in 0..3 {
            stage.take_over()?;
        }
        Ok(())
    })?;
    let number = |key: &str| told[key].as_f64().unwrap_or_default();
    println!("{told}");
    assert_eq!((&told["lost"], &told["wrong"]), (&Value::Array(vec![]), &Value::Array(vec![])), "{told}");
    assert!(number("slowest") < 0.5, "{told}");
    assert!(number("answered") > 150.0 * number("seconds"), "{told}");
    // All of it went through agents: the resolver never heard our name.
    assert_eq!(stage.topology.dns.queries("fake.test"), 0);
    assert_eq!(stage.end()?, Vec::<String>::new());
    Ok(())
}

#[test]
fn queries_get_an_answer_at_once_when_the_agent_is_stopped() -> anyhow::Result<()> {
    let mut stage = with_both_families()?;
    let told = under_load(&mut stage, |stage| stage.agent.pause())?;
    println!("{told}");
    assert_eq!(told["lost"], Value::Array(vec![]), "{told}");
    assert!(told["slowest"].as_f64().is_some_and(|seconds| seconds < 0.5), "{told}");
    // From then on the resolver answers, which does not know our name.
    for wrong in told["wrong"].as_array().context("a list")? {
        assert_eq!((wrong[1].as_str(), wrong[2].as_str()), (Some("fake.test"), Some("rcode 3")), "{told}");
    }
    stage.resume()
}

#[test]
fn commands_are_enrolled_while_one_agent_takes_over_from_another() -> anyhow::Result<()> {
    let mut stage = with_both_families()?;
    let vip = vip(&stage)?;
    let (exec, sleep) = (stage.agent.exec(), stage.topology.in_sleep(&["getent", "ahostsv4", "fake.test"]));
    let words = [exec, sleep].concat();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| -> anyhow::Result<()> {
        let commands = scope.spawn(|| -> anyhow::Result<usize> {
            for number in 0.. {
                if done.load(Ordering::SeqCst) && number >= 5 {
                    return Ok(number);
                }
                let output = poll::output(std::process::Command::new(&words[0]).args(&words[1..]))?;
                let told = String::from_utf8_lossy(&output.stdout).into_owned();
                anyhow::ensure!(output.status.success() && told.starts_with(&vip), "{number}: {output:?}");
            }
            unreachable!("numbers do not end")
        });
        let taken = (0..3).try_for_each(|_| stage.take_over());
        done.store(true, Ordering::SeqCst);
        let count = commands.join().expect("no panic")?;
        assert!(count >= 5);
        taken
    })?;
    assert_eq!(stage.end()?, Vec::<String>::new());
    Ok(())
}

#[test]
fn the_running_agent_goes_on_when_the_next_one_fails() -> anyhow::Result<()> {
    let mut stage = with_both_families()?;
    let pid = stage.agent.json("status")?["pid"].clone();
    let elsewhere = stage.cgroup.join("elsewhere");
    std::fs::create_dir(&elsewhere)?;
    for (attach, words, said) in [
        (&elsewhere, ["--takeover"].as_slice(), "--attach"),
        (&stage.cgroup.clone(), &["--takeover", "--enrol", "/no/such/cgroup"], "/no/such/cgroup"),
        (&stage.cgroup.clone(), &[], "--takeover"),
    ] {
        let flags = Flags { attach: attach.clone(), ..stage.agent.flags().clone() };
        let told = under_load(&mut stage, |stage| {
            let mut new = Agent::spawn(&stage.run, &stage.topology.node, flags, words)?;
            let status = new.process().wait(Duration::from_secs(20))?;
            assert_eq!(status.code(), Some(2), "{}", new.log_tail());
            assert!(new.log_tail().contains(said), "{}", new.log_tail());
            Ok(())
        })?;
        assert_eq!((&told["lost"], &told["wrong"]), (&Value::Array(vec![]), &Value::Array(vec![])), "{told}");
        assert_eq!(stage.agent.json("status")?["pid"], pid);
    }
    std::fs::remove_dir(&elsewhere)?;
    // It still follows its entries, and can still be taken over.
    stage.write("other.yaml", &dns_entry("other", "other.test", Some(("backend.test", 9000))))?;
    stage.agent.until_serves("other.test", true)?;
    stage.take_over()?;
    stage.agent.until_serves("other.test", true)
}

#[test]
fn takeover_without_an_agent_is_a_start() -> anyhow::Result<()> {
    let mut stage = with_both_families()?;
    stage.agent.pause()?;
    let flags = stage.agent.flags().clone();
    stage.agent = Agent::start_with(&stage.run, &stage.topology.node, flags, &["--takeover"])?;
    vip(&stage)?;
    Ok(())
}
