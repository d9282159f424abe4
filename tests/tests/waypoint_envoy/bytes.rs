//! What is no HTTP is carried byte by byte, whoever talks first.

use std::process::Command;

use tests::servers::Process;
use tests::stage::tools_folder;
use tests::topology::{BACKEND, NODE, Options, v6};

use crate::*;

const QUIET: Options = Options { httpbin: false, ttl_secs: 1, records: &[] };

#[test]
fn a_server_that_talks_first_is_heard_first() -> anyhow::Result<()> {
    let Some(mut way) = Way::start(QUIET)? else { return Ok(()) };
    greeter(&way.topology.backend, (BACKEND, 3306).into(), "database")?;
    greeter(&way.topology.backend, (v6(BACKEND), 3306).into(), "database6")?;
    way.serves(&[
        (key("db.test", 3306), service(20_001, Protocol::Mysql, vec![at(BACKEND, 3306)])),
        (key("db6.test", 3306), service(20_002, Protocol::Tcp, vec![at(v6(BACKEND), 3306)])),
    ])?;
    for (port, name) in [(20_001, "database"), (20_002, "database6")] {
        let mut stream = way.connect(port)?;
        assert_eq!(hear(&mut stream)?, format!("220 {name}"));
        assert_eq!(say(&mut stream, "hello")?, format!("{name} hello"));
    }
    way.end()
}

#[test]
fn tls_is_the_backends_own_and_it_sees_the_name() -> anyhow::Result<()> {
    let Some(mut way) = Way::start(QUIET)? else { return Ok(()) };
    let folder = way.run.folder()?;
    let [certificate, private] = ["cert.pem", "key.pem"].map(|name| folder.join(name).display().to_string());
    let mut openssl = Command::new("openssl");
    openssl.args([
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=kmesh-fake.com",
    ]);
    openssl.args(["-addext", "subjectAltName=DNS:kmesh-fake.com", "-keyout", &private, "-out", &certificate]);
    let made = poll::output(&mut openssl)?;
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    // Answers with the name that the client asked for in its first message.
    let program = format!(
        "
import http.server, ssl
asked = []
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(asked[-1].encode())
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain({certificate:?}, {private:?})
context.sni_callback = lambda socket, name, context: asked.append(str(name))
server = http.server.HTTPServer(('{BACKEND}', 8443), Handler)
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
"
    );
    let mut python = way.topology.backend.command(tools_folder().join("httpbin/bin/python3"));
    let mut server = Process::start(python.args(["-c", &program]), &folder.join("tls.log"))?;
    let accepts = || {
        let connected = way.topology.backend.inside(|| TcpStream::connect((BACKEND, 8443)).is_ok());
        connected.unwrap_or(false)
    };
    server.ready("the TLS server", LIMIT, accepts)?;
    way.serves(&[(key("kmesh-fake.com", 443), service(20_001, Protocol::Tls, vec![at(BACKEND, 8443)]))])?;
    let asked = ["--cacert", &certificate, "https://kmesh-fake.com/"];
    assert_eq!(way.curl(("kmesh-fake.com", 443), (NODE, 20_001), &asked)?, "kmesh-fake.com");
    drop(server);
    way.end()
}
