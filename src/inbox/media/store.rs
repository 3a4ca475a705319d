//! Where fetched files are kept: a folder of this machine, or a bucket.
//!
//! Why it exists: on one machine a folder is enough; where processes come and go only a bucket stays.
//!
//! A name is written whole or not at all, and writing it again is harmless. It must never take a name from a message.

use std::path::{Path, PathBuf};

use reqwest::Client;

use super::{MediaConfig, s3::Bucket};

/// Why a file could not be kept or deleted. Nothing of it says what the file was.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The bucket's address.
    #[error("the object store's address cannot be used")]
    Address,
    /// The folder.
    #[error("the folder: {0}")]
    Folder(std::io::Error),
    /// The bucket did not answer.
    #[error("the object store does not answer")]
    Unreachable,
    /// The bucket refused.
    #[error("the object store answered {0}")]
    Refused(u16),
}

/// Where files are kept. Clones share it.
#[derive(Clone)]
pub enum MediaStore {
    /// A folder.
    Folder(PathBuf),
    /// A bucket.
    Bucket(Box<BucketStore>),
}

/// A bucket.
#[derive(Clone)]
pub struct BucketStore(Bucket);

impl std::fmt::Debug for MediaStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Folder(_) => "MediaStore::Folder",
            Self::Bucket(_) => "MediaStore::Bucket",
        })
    }
}

impl MediaStore {
    /// What the configuration names.
    pub fn new(http: Client, config: &MediaConfig) -> Result<Self, StoreError> {
        Ok(if config.s3_bucket.is_empty() {
            Self::Folder(PathBuf::from(&config.folder))
        } else {
            Self::Bucket(Box::new(BucketStore(Bucket::new(http, config)?)))
        })
    }

    /// Keeps a file under a name of ours: letters, digits, dashes and one slash.
    pub async fn put(&self, name: &str, bytes: Vec<u8>) -> Result<(), StoreError> {
        match self {
            Self::Folder(folder) => write(folder, name, bytes).await.map_err(StoreError::Folder),
            Self::Bucket(bucket) => bucket.0.put(name, bytes).await,
        }
    }

    /// Deletes a file; one that is not there is deleted.
    pub async fn delete(&self, name: &str) -> Result<(), StoreError> {
        match self {
            Self::Folder(folder) => match tokio::fs::remove_file(folder.join(name)).await {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(StoreError::Folder(error)),
                Ok(()) | Err(_) => Ok(()),
            },
            Self::Bucket(bucket) => bucket.0.delete(name).await,
        }
    }
}

/// Beside its place first and then moved there, so that a crash leaves no half of a file under its name.
async fn write(folder: &Path, name: &str, bytes: Vec<u8>) -> std::io::Result<()> {
    let place = folder.join(name);
    if let Some(parent) = place.parent() {
        tokio::fs::create_dir_all(parent).await?;
    }
    let beside = place.with_extension(format!("{}.part", uuid::Uuid::new_v4().simple()));
    let written = async {
        let mut file = tokio::fs::File::create(&beside).await?;
        tokio::io::AsyncWriteExt::write_all(&mut file, &bytes).await?;
        file.sync_all().await?;
        tokio::fs::rename(&beside, &place).await
    };
    let written = written.await;
    if written.is_err() {
        let _ = tokio::fs::remove_file(&beside).await;
    }
    written
}
