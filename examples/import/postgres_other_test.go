//go:build !linux

package main

import (
	"database/sql"
	"testing"
)

func startPostgres(t *testing.T) *sql.DB {
	t.Skip("Postgres is started on Linux only")
	return nil
}
