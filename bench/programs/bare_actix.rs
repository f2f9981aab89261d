//! Benchmark program (a): what actix-web alone can do. Reads the body and answers 200; nothing is parsed, nothing is stored.

use std::io;
use std::net::SocketAddr;
use std::thread::available_parallelism;

use actix_web::{App, HttpResponse, HttpServer, rt, web};
use clap::Parser;

#[derive(Parser)]
struct Options {
    #[arg(long, default_value = "127.0.0.1:8081")]
    bind: SocketAddr,
}

async fn read(body: web::Bytes) -> HttpResponse {
    std::hint::black_box(body);
    HttpResponse::Ok().finish()
}

fn main() -> io::Result<()> {
    let options = Options::parse();
    rt::System::new().block_on(
        HttpServer::new(|| App::new().route("/v1/events", web::post().to(read)))
            .workers(available_parallelism()?.get())
            .shutdown_timeout(5)
            .bind(options.bind)?
            .run(),
    )
}
