package reconnecttest_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/lock"
	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/reconnect/reconnecttest"
	"github.com/wastability/wastability/stability/memorybackend"
)

// states is a reconnect.StateStore that keeps the state in a row of a table,
// which refuses a write of an older epoch.
type states struct{ table authstore.KV }

var row = authstore.Key{Kind: "state", ID: "wa"}

func (s states) Load(ctx context.Context) (reconnect.State, error) {
	rows, err := s.table.Get(ctx, row)
	if err != nil {
		return reconnect.State{}, err
	}
	return reconnect.DecodeState(rows[row]) // no row is no error: the zero State
}

func (s states) Save(ctx context.Context, epoch int64, state reconnect.State) error {
	data, err := reconnect.EncodeState(state)
	if err != nil {
		return err
	}
	if _, err := s.Load(ctx); err != nil {
		return fmt.Errorf("save over the old state: %w", err) // perhaps ErrNewerFormat: it stays
	}
	return s.table.Commit(ctx, epoch, authstore.Batch{Put: []authstore.Entry{{Key: row, Value: data}}})
}

// plantNewer stores a state of a newer format, past the store.
func plantNewer(t *testing.T, table authstore.KV, l lock.Store) {
	held, err := l.Load(t.Context())
	require.NoError(t, err)
	newer := fmt.Appendf(nil, `{"version": %d}`, reconnect.StateVersion+1)
	require.NoError(t, table.Commit(t.Context(), held.Epoch, authstore.Batch{Put: []authstore.Entry{{Key: row, Value: newer}}}))
}

// testStateConforms tests a StateStore, with the lock whose epochs fence it.
func testStateConforms(t *testing.T) {
	reconnecttest.Run(t, func(t *testing.T) reconnecttest.Account {
		b := memorybackend.New().Backend()
		t.Cleanup(func() { _ = b.Close() })
		return reconnecttest.Account{
			State: states{b.Auth}, Lock: b.Lock,
			PlantNewer: func(t *testing.T) { plantNewer(t, b.Auth, b.Lock) },
		}
	})
}

// In a test of your own: func TestStateConforms(t *testing.T) { testStateConforms(t) }
func ExampleRun() {
	_ = testStateConforms
}
