//! A PgBouncer of a test's own, in transaction mode, in front of the tests' PostgreSQL: few connections to the server, so that
//! they really change hands between statements.

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
};

use uuid::Uuid;

use crate::{fixture_db::service, process::Process, wait::until};

/// Connections to the server, all users together.
pub(crate) const SERVER_CONNECTIONS: u32 = 3;

/// A private PgBouncer; killed, and its folder removed, when dropped.
pub(crate) struct PgBouncer {
    program: PathBuf,
    folder: PathBuf,
    port: u16,
    process: Option<Process>,
}

impl PgBouncer {
    /// Starts one; none where the program is not installed, which is said.
    pub(crate) async fn start() -> Option<Self> {
        let Some(program) = find() else {
            println!("SKIPPED: PgBouncer is not installed (bin/services install)");
            return None;
        };
        let server = url::Url::parse(&service("CARILLON_TEST_DATABASE_URL")).unwrap();
        let folder = std::env::temp_dir().join(format!("carillon-pgbouncer-{}", Uuid::new_v4().simple()));
        std::fs::create_dir(&folder).unwrap();
        // Bound and let go: the port was free a moment ago.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let settings = format!(
            "[databases]\n* = host={} port={} user={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
             unix_socket_dir =\nauth_type = any\npool_mode = transaction\ndefault_pool_size = {SERVER_CONNECTIONS}\n\
             max_client_conn = 200\nserver_login_retry = 1\n",
            server.host_str().unwrap(),
            server.port().unwrap_or(5432),
            server.username(),
        );
        std::fs::write(folder.join("ini"), settings).unwrap();
        let mut bouncer = Self {
            program,
            folder,
            port,
            process: None,
        };
        bouncer.run().await;
        Some(bouncer)
    }

    /// Runs it, again after [`Self::kill`], and waits until it listens.
    pub(crate) async fn run(&mut self) {
        let mut command = Command::new(&self.program);
        // It refuses to be root; this user comes with PostgreSQL.
        let id = Command::new("id").arg("-u").output().unwrap().stdout;
        if id == b"0\n" {
            command.arg("--user=postgres");
        }
        self.process = Some(Process::run(command.arg(self.folder.join("ini"))));
        until("PgBouncer listens", async || {
            tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.is_ok()
        })
        .await;
    }

    /// Ends it as SIGKILL does: every connection through it breaks.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }

    /// The address of a database, through it.
    pub(crate) fn in_front_of(&self, url: &str) -> String {
        let mut url = url::Url::parse(url).unwrap();
        url.set_host(Some("127.0.0.1")).unwrap();
        url.set_port(Some(self.port)).unwrap();
        // Parameters of a session are not a pooler's to keep.
        url.set_query(None);
        url.to_string()
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn find() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin")])
        .map(|folder| folder.join("pgbouncer"))
        .find(|program| Path::exists(program))
}
