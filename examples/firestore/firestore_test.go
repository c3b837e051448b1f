package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/examples/internal/demo"
	"github.com/wastability/wastability/stability/firestorebackend"
	"github.com/wastability/wastability/stability/memorybackend"
	"github.com/wastability/wastability/stability/stabilitytest"
	"github.com/wastability/wastability/stability/stabilitytest/firestoresim"
)

// The test binary is also the replica that play starts.
func TestMain(m *testing.M) {
	if demo.IsReplica() {
		main()
		return
	}
	_ = flag.Set("test.parallel", "4") // unless the command line says another: they wait most of the time
	os.Exit(firestoresim.Main(m).Run())
}

func TestLoadMeasuresAndLeavesNothing(t *testing.T) {
	t.Parallel()
	emulator := needEmulator(t)
	var out strings.Builder
	require.NoError(t, loadTest(t.Context(), 20, &out))
	t.Log(out.String())
	require.Contains(t, out.String(), "20 messages came and were answered")
	require.Contains(t, out.String(), "errors    none")

	client, err := emulator.Client(t.Context(), projectName)
	require.NoError(t, err)
	defer client.Close()
	for _, group := range []string{"locks", "whatsmeow_auth", "keys", "state", "incidents"} {
		docs, err := client.CollectionGroup(group).Documents(t.Context()).GetAll()
		require.NoError(t, err)
		for _, d := range docs {
			require.NotContains(t, d.Ref.Path, "/documents/loads/")
			require.Contains(t, d.Ref.Path, "/documents/simulations/", "of another test")
		}
	}
}

const projectName = "demo-wastability"

// needEmulator lets this process, and those that it starts, use the emulator.
func needEmulator(t *testing.T) *firestoresim.Emulator {
	emulator := firestoresim.NeedEmulator(t)
	for name, value := range map[string]string{emulatorHost: emulator.Addr(), "GOOGLE_CLOUD_PROJECT": projectName} {
		require.NoError(t, os.Setenv(name, value)) // for all tests the same
	}
	return emulator
}

// limping refuses every fifth commit once.
type limping struct {
	authstore.KV
	n atomic.Int64
}

func (k *limping) Commit(ctx context.Context, epoch int64, b authstore.Batch) error {
	if k.n.Add(1)%5 == 0 {
		return fmt.Errorf("commit: %w", firestorebackend.ErrQuota)
	}
	return k.KV.Commit(ctx, epoch, b)
}

func TestLoadCountsErrorsAndLosesNothing(t *testing.T) {
	t.Parallel()
	if stabilitytest.Race {
		t.Skip("a send while the link drops is whatsmeow's own race: a load that is cut meets it nearly always")
	}
	backend := memorybackend.New().Backend()
	backend.Auth = &limping{KV: backend.Auth}
	l, err := load(t.Context(), backend, 20)
	require.NoError(t, err)
	require.Equal(t, 20, l.messages)
	var out strings.Builder
	l.tell(&out)
	t.Log(out.String())
	require.Contains(t, out.String(), "of the commits: "+firestorebackend.ErrQuota.Error())
	require.Regexp(t, `commits +[1-9][0-9]*, one at a time`, out.String())
}

func TestPercentilesAreOfTheSortedDurations(t *testing.T) {
	var d []time.Duration
	for i := range 100 {
		d = append(d, time.Duration(100-i)*time.Millisecond)
	}
	require.Equal(t, "median 51ms, 95 % within 96ms, 99 % within 100ms, longest 100ms", percentiles(d))
	require.Equal(t, 100*time.Millisecond, d[0], "they stay as they were")
	require.Equal(t, "none", percentiles(nil))
}

func TestReplicasOnFirestoreAreDeployedAndKilledAndLoseNothing(t *testing.T) {
	t.Parallel()
	needEmulator(t)
	const lease = 4 * time.Second
	res, err := play(t.Context(), stabilitytest.Pick(2, 20), scale{pace: 50 * time.Millisecond, lease: lease}, io.Discard)
	require.NoError(t, err)
	require.Positive(t, res.Sent)
	require.Equal(t, res.Sent, res.Answered)
	require.Zero(t, res.Twice, "no message was answered twice")
	require.Zero(t, res.Replaced, "two replicas were never logged in at once")
	require.Equal(t, 1, res.Pairings)
	for _, off := range res.Deploys {
		require.Less(t, off, lease, "a deploy does not wait for the lease")
	}
	require.Less(t, res.Crash, 30*time.Second, "the lease, and patience for a busy machine")
}
