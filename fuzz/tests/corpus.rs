//! The committed inputs, with every test run.

use std::path::Path;

fn run(name: &str, target: fn(&[u8])) -> std::io::Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
    let mut count = 0;
    for entry in std::fs::read_dir(folder)? {
        let bytes = std::fs::read(entry?.path())?;
        target(&bytes);
        // Each place in it cut off, which is cheap and finds much.
        (0..bytes.len().min(1500)).step_by(7).for_each(|length| target(&bytes[..length]));
        count += 1;
    }
    assert!(count >= 10, "{count} inputs");
    Ok(())
}

#[test]
fn no_input_of_the_corpus_makes_the_reader_panic() -> std::io::Result<()> {
    run("yaml", fuzz::yaml)
}

#[test]
fn no_input_of_the_corpus_makes_the_dns_server_panic() -> std::io::Result<()> {
    run("dns", fuzz::dns)
}
