//! Benchmark program (a): the ceiling of actix-web alone. It reads the body and answers 200,
//! without parsing or storing anything.

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
