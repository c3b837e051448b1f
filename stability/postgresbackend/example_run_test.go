package postgresbackend_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/stability/stabilitytest/postgrestest"
)

// The documentation shows what runs here, on a server and without one.
func TestExampleOpen(t *testing.T) {
	dsn := postgrestest.Need(t).DSN()
	require.NoError(t, serve(t.Context(), dsn, "support", "sales"))
	require.ErrorContains(t, serve(t.Context(), dsn, ""), "account")

	require.ErrorContains(t, serve(t.Context(), "host=127.0.0.1 port=1 dbname=x"), "postgresbackend: ", "nobody listens")
}
