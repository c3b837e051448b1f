// Command gateway keeps many accounts connected in one process, and adds,
// pairs, lists and removes them over HTTP. It is what you copy into a service
// with more than one number.
//
//	WASTABILITY_ADMIN_TOKEN=... gateway [-dir accounts | -postgres DSN]
//
//	POST   /accounts                {"id": "support"}               adds an account
//	GET    /accounts                                                lists them, and how each is
//	GET    /accounts/{id}/admin/                                    the page of one: scan the code there
//	POST   /accounts/{id}/messages  {"to": "4915…", "text": "Hi"}   sends
//	DELETE /accounts/{id}                                           logs out, and removes it for good
//
// Every request carries the token in the header X-Admin-Token. Two processes on
// one database are two replicas: each account runs on one of them, and a request
// about an account that the other one holds is answered with 409.
package main

import (
	"context"
	"errors"
	"flag"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/wastability/wastability/stability/postgresbackend"
)

func main() {
	addr := flag.String("addr", "127.0.0.1:8080", "where to listen")
	dir := flag.String("dir", "accounts", "the folder with a file for each account")
	dsn := flag.String("postgres", "", "keep the accounts in this Postgres database instead of in files")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends it at once
	if err := run(ctx, *addr, *dir, *dsn); err != nil {
		slog.Error("the gateway stopped", "error", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, addr, dir, dsn string) error {
	var accounts directory = folder(dir)
	if dsn != "" {
		pool, err := pgxpool.New(ctx, dsn)
		if err != nil {
			return err
		}
		defer pool.Close()
		db, err := postgresbackend.Open(ctx, pool)
		if err != nil {
			return err
		}
		defer db.Close()
		if accounts, err = newTable(ctx, pool, db); err != nil {
			return err
		}
	}
	g, err := newGateway(accounts, os.Getenv("WASTABILITY_ADMIN_TOKEN"))
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: g, ReadHeaderTimeout: 10 * time.Second}
	go server.Serve(l)
	err = g.run(ctx) // until ctx ends; it hands every account over
	return errors.Join(err, server.Close())
}
