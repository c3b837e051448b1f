package stability

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"reflect"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/authstore/authstoretest"
	"github.com/wastability/wastability/guard"
	"github.com/wastability/wastability/lock"
	"github.com/wastability/wastability/reconnect"
)

// storeAbilities are the optional interfaces of a store that the Manager asks for.
func storeAbilities() (names []string) {
	for f := range reflect.TypeFor[abilities]().Fields() {
		if f.Type.Kind() == reflect.Interface && strings.HasSuffix(f.Type.PkgPath(), "/authstore") {
			names = append(names, f.Type.Name())
		}
	}
	return names
}

// Parts that are never called.
type (
	anyLock      struct{ lock.Store }
	anyKV        struct{ authstore.KV }
	anyState     struct{ reconnect.StateStore }
	anyIncidents struct{ guard.IncidentStore }
)

// warnings are the lines that New writes for a store, as JSON.
func warnings(t *testing.T, opts ...Option) (lines []map[string]any) {
	t.Helper()
	var log bytes.Buffer
	_, err := New(append(opts,
		WithBackend(Backend{Lock: anyLock{}, Auth: anyKV{}, State: anyState{}, Incidents: anyIncidents{}}),
		WithLogger(slog.New(slog.NewJSONHandler(&log, nil))))...)
	require.NoError(t, err)
	for d := json.NewDecoder(&log); ; {
		var line map[string]any
		if err := d.Decode(&line); err == io.EOF {
			return lines
		}
		lines = append(lines, line)
	}
}

func TestStoreThatLacksOptionalInterfacesIsToldOfOnce(t *testing.T) {
	const text = "the store of WithAuthStore lacks optional interfaces of package authstore"
	c := authstore.New(anyKV{})
	require.Empty(t, warnings(t))
	require.Empty(t, warnings(t, WithAuthStore(c)))
	require.Empty(t, warnings(t, WithAuthStore(struct{ *authstore.Container }{c})))

	lines := warnings(t, WithAuthStore(struct{ authstore.Store }{c}))
	require.Len(t, lines, 1)
	require.Equal(t, "WARN", lines[0]["level"])
	require.Equal(t, text, lines[0]["msg"])
	var names []string
	for _, l := range lines[0]["lacks"].([]any) {
		name, means, _ := strings.Cut(l.(string), ": ")
		require.NotEmpty(t, means)
		names = append(names, name)
	}
	require.ElementsMatch(t, storeAbilities(), names, "every one that the Manager asks for")

	lines = warnings(t, WithAuthStore(struct {
		authstore.Store
		authstore.MessageBook
		authstore.Maintainer
		authstore.EventLeftovers
		authstore.Retainer
	}{c, c, c, c, c}))
	require.Len(t, lines, 1)
	require.Equal(t, []any{"OutgoingCounter: Resends does not count what newer versions of whatsmeow answer"}, lines[0]["lacks"])
}

// failure is a test that fails, and goes on.
type failure struct {
	testing.TB
	text string
}

func (f *failure) Helper()                        {}
func (f *failure) FailNow()                       {}
func (f *failure) Errorf(format string, a ...any) { f.text += fmt.Sprintf(format, a...) }

func TestStoreIsCompleteAsksForAllThatTheManagerDoes(t *testing.T) {
	f := &failure{TB: t}
	authstoretest.StoreIsComplete(f, struct{ authstore.Store }{authstore.New(anyKV{})})
	require.NotEmpty(t, storeAbilities())
	for _, name := range storeAbilities() {
		require.Contains(t, f.text, name+".")
	}
}
