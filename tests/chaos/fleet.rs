//! The product's own processes: started, killed, stopped, frozen, and watched. A process that ends although nobody asked
//! it to is written down and started again, as a platform would.
//! It must never signal a process it did not start.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Mutex as StdMutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::{
    process::{Child, Command},
    sync::{Mutex, MutexGuard},
};

use super::{clock::Clock, plan::Size};

/// A process told to stop has this long before it is killed; what the product promises is less.
const STOP_PATIENCE: Duration = Duration::from_secs(35);
/// How often the fleet is looked after.
const LOOK: Duration = Duration::from_millis(200);

/// A process that ended by itself.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Exit {
    /// Its name.
    pub name: String,
    /// When.
    pub at_ms: u64,
    /// What the system said of it.
    pub status: String,
}

/// A name and the process that has it now.
struct Slot {
    role: &'static str,
    name: String,
    /// Where a web process listens.
    port: Option<u16>,
    process: Mutex<Option<Child>>,
}

/// All processes.
pub struct Fleet {
    slots: Vec<Slot>,
    env: BTreeMap<String, String>,
    logs: PathBuf,
    clock: Clock,
    exits: StdMutex<Vec<Exit>>,
    stops_ms: StdMutex<Vec<u64>>,
}

impl Fleet {
    /// Starts every process, and a web process on each of these ports. To add a role to the fleet: one line in `roles`.
    pub fn start(size: Size, ports: &[u16], env: BTreeMap<String, String>, logs: PathBuf, clock: Clock) -> Self {
        let roles = [
            ("worker", size.workers),
            ("scheduler", size.schedulers),
            ("web", ports.len()),
        ];
        let slots = roles
            .into_iter()
            .flat_map(|(role, count)| (1..=count).map(move |number| (role, number)))
            .map(|(role, number)| Slot {
                role,
                name: format!("{role}.{number}"),
                port: (role == "web").then(|| ports[number - 1]),
                process: Mutex::new(None),
            })
            .collect();
        let fleet = Self {
            slots,
            env,
            logs,
            clock,
            exits: StdMutex::default(),
            stops_ms: StdMutex::default(),
        };
        for slot in &fleet.slots {
            *slot.process.try_lock().unwrap() = Some(fleet.spawn(slot));
        }
        fleet
    }

    fn spawn(&self, slot: &Slot) -> Child {
        let log = |name: &str| -> File {
            let path = self.logs.join(name);
            OpenOptions::new().create(true).append(true).open(path).unwrap()
        };
        Command::new(env!("CARGO_BIN_EXE_carillon"))
            .arg(slot.role)
            .envs(&self.env)
            // As a platform names its processes; a new process has the name of the one it replaces.
            .env("DYNO", &slot.name)
            .envs(slot.port.map(|port| ("PORT", port.to_string())))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log(&format!("{}.log", slot.name)))
            .kill_on_drop(true)
            .spawn()
            .unwrap()
    }

    async fn take(&self, name: &str) -> (&Slot, MutexGuard<'_, Option<Child>>) {
        let slot = self.slots.iter().find(|slot| slot.name == name).unwrap();
        (slot, slot.process.lock().await)
    }

    /// SIGKILL; after `down` the same name again.
    pub async fn kill(&self, name: &str, down: Duration) {
        let (slot, mut process) = self.take(name).await;
        if let Some(mut child) = process.take() {
            child.kill().await.unwrap();
        }
        tokio::time::sleep(down).await;
        *process = Some(self.spawn(slot));
    }

    /// SIGTERM; when it has gone, the same name again.
    pub async fn stop(&self, name: &str) {
        let (slot, mut process) = self.take(name).await;
        let asked = Instant::now();
        if let Some(mut child) = process.take() {
            signal(&child, "-TERM").await;
            if tokio::time::timeout(STOP_PATIENCE, child.wait()).await.is_err() {
                child.kill().await.unwrap();
            }
            locked(&self.stops_ms).push(millis(asked.elapsed()));
        }
        *process = Some(self.spawn(slot));
    }

    /// SIGSTOP, then SIGCONT.
    pub async fn freeze(&self, name: &str, time: Duration) {
        let (_, process) = self.take(name).await;
        if let Some(child) = process.as_ref() {
            signal(child, "-STOP").await;
            tokio::time::sleep(time).await;
            signal(child, "-CONT").await;
        }
    }

    /// Looks after the processes until it is dropped.
    pub async fn look_after(&self) {
        loop {
            for slot in &self.slots {
                // A slot in somebody's hands is being broken on purpose.
                let Ok(mut process) = slot.process.try_lock() else {
                    continue;
                };
                let Some(Ok(Some(status))) = process.as_mut().map(Child::try_wait) else {
                    continue;
                };
                locked(&self.exits).push(Exit {
                    name: slot.name.clone(),
                    at_ms: self.clock.now_ms(),
                    status: status.to_string(),
                });
                *process = Some(self.spawn(slot));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Ends every process as a platform does: SIGTERM to all at once.
    pub async fn end(&self) {
        let mut leaving = Vec::new();
        for slot in &self.slots {
            if let Some(child) = slot.process.lock().await.take() {
                signal(&child, "-TERM").await;
                leaving.push((Instant::now(), child));
            }
        }
        for (asked, mut child) in leaving {
            if tokio::time::timeout(STOP_PATIENCE, child.wait()).await.is_err() {
                child.kill().await.unwrap();
            }
            locked(&self.stops_ms).push(millis(asked.elapsed()));
        }
    }

    /// Who ended by itself.
    pub fn exits(&self) -> Vec<Exit> {
        locked(&self.exits).clone()
    }

    /// How long each stop took, in milliseconds.
    pub fn stops_ms(&self) -> Vec<u64> {
        locked(&self.stops_ms).clone()
    }

    /// What the processes wrote: lines at ERROR, and panics, each with the name of its file.
    pub fn complaints(logs: &Path) -> (Vec<String>, Vec<String>) {
        let (mut errors, mut panics) = (Vec::new(), Vec::new());
        for file in std::fs::read_dir(logs).unwrap().map(|entry| entry.unwrap()) {
            let name = file.file_name().to_string_lossy().into_owned();
            let text = std::fs::read(file.path()).unwrap_or_default();
            for line in String::from_utf8_lossy(&text).lines() {
                let said = || format!("{name}: {line}");
                if line.contains("panicked at") {
                    panics.push(said());
                } else if line.contains("\"level\":\"ERROR\"") || line.contains(" ERROR ") {
                    errors.push(said());
                }
            }
        }
        (errors, panics)
    }
}

async fn signal(child: &Child, signal: &str) {
    // Without an id it has ended, and been waited for.
    if let Some(id) = child.id() {
        let _ = Command::new("kill").args([signal, &id.to_string()]).status().await;
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn locked<T>(mutex: &StdMutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
