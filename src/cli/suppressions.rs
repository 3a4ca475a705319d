//! `carillon suppressions`: a shop's lists of whom it may not write to, in and out as CSV.

use std::{
    fs::File,
    io::{self, BufReader, BufWriter},
    path::PathBuf,
};

use carillon_jobs::ShopId;

use super::{CliError, complain, need_schema, say};
use crate::{
    app::App,
    suppression::{self, Imported, SuppressionError},
};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Args {
    /// Take in a list: whoever is on it gets nothing, also when the address comes later
    #[command(
        after_help = "The first line names the columns: channel, address, and if you like state (opted_out, suppressed) and reason.\nThe same file again changes nothing. Exit code: 1 when a line was not taken; the others were."
    )]
    Import(ImportArgs),
    /// Write everybody the shop may not write to, to standard output
    #[command(
        after_help = "What import reads. Of who was erased only a hash is there; it counts when it is imported to the same shop."
    )]
    Export(ExportArgs),
}

#[derive(Debug, clap::Args)]
pub(super) struct ImportArgs {
    /// The shop's id
    #[arg(long, value_name = "ID")]
    shop: ShopId,
    /// The CSV file; - for standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct ExportArgs {
    /// The shop's id
    #[arg(long, value_name = "ID")]
    shop: ShopId,
}

pub(super) async fn run(app: App, args: Args) -> Result<(), CliError> {
    need_schema(&app).await?;
    match args {
        Args::Import(args) => import(&app, args).await,
        Args::Export(args) => {
            let mut out = BufWriter::new(io::stdout());
            match suppression::export(&app.db, args.shop, &mut out).await {
                // A reader that went away is no error.
                Err(SuppressionError::File(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
                result => Ok(result.map(drop)?),
            }
        }
    }
}

async fn import(app: &App, args: ImportArgs) -> Result<(), CliError> {
    let told = if args.file.as_os_str() == "-" {
        suppression::import(&app.db, args.shop, BufReader::new(io::stdin())).await?
    } else {
        let file =
            File::open(&args.file).map_err(|error| CliError::Wrong(format!("{}: {error}", args.file.display())))?;
        suppression::import(&app.db, args.shop, BufReader::new(file)).await?
    };
    if args.json {
        say(&serde_json::to_string(&told).map_err(|error| CliError::Failed(error.to_string()))?)?;
    } else {
        tell(&told)?;
    }
    if told.bad == 0 {
        return Ok(());
    }
    Err(CliError::Failed(format!(
        "{} lines were not taken; mend them and import the file again",
        told.bad
    )))
}

fn tell(told: &Imported) -> Result<(), CliError> {
    for (line, problem) in &told.bad_lines {
        complain(&format!("line {line}: {problem}"));
    }
    let more = told.bad.saturating_sub(told.bad_lines.len() as u64);
    if more > 0 {
        complain(&format!("and {more} lines more"));
    }
    say(&format!(
        "{} lines taken, {} of them new or changed",
        told.lines, told.changed
    ))
}

impl From<SuppressionError> for CliError {
    fn from(error: SuppressionError) -> Self {
        match error {
            SuppressionError::Header(_) | SuppressionError::NoShop(_) => Self::Wrong(error.to_string()),
            SuppressionError::File(_) => Self::Failed(error.to_string()),
            SuppressionError::Database(error) => error.into(),
        }
    }
}
