package authstore

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A SQLite database is often opened with a single connection. The import gives it
// back before it asks for the next transaction, or it would wait for itself for ever.
func TestDatabaseWithOneConnectionIsImported(t *testing.T) {
	src := sqlAt(sqlSchema).source(t, sqlJID)
	src.db.SetMaxOpenConns(1)
	ctx, cancel := context.WithTimeout(bg, 5*time.Second)
	defer cancel()
	r, err := Import(ctx, src, New(newMapKV()), newFence(1), SourceStopped(), RetireSource())
	require.NoError(t, err)
	require.True(t, r.Retired)
}
