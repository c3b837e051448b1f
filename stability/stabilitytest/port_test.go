package stabilitytest_test

import (
	"fmt"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/stability/stabilitytest"
	"github.com/wastability/wastability/stability/stabilitytest/child"
)

const portsEnv = "WASTABILITY_TEST_PORTS"

func TestMain(m *testing.M) {
	if !child.Play(portsEnv, sayPorts) {
		os.Exit(m.Run())
	}
}

// sayPorts is another test process, which lives until it is killed.
func sayPorts(n int) error {
	var given []string
	for range n {
		port, err := stabilitytest.FreePort()
		if err != nil {
			return err
		}
		given = append(given, port)
	}
	fmt.Println("ports", strings.Join(given, " "))
	_, err := os.Stdin.Read(make([]byte, 1))
	return err
}

func TestNoTwoProcessesAreGivenOnePort(t *testing.T) {
	const n = 90
	given := map[string]bool{}
	for range 30 { // of 120 blocks two would be one, were they not held
		ports := strings.Fields(child.Start(t, portsEnv, n).Hears("ports"))
		require.Len(t, ports, n)
		for _, port := range ports {
			require.False(t, given[port], port)
			given[port] = true
		}
	}
}

func TestPortThatIsTakenIsNotGiven(t *testing.T) {
	taken := map[string]bool{}
	for range 50 {
		port, err := stabilitytest.FreePort()
		require.NoError(t, err)
		l, err := net.Listen("tcp", ":"+port)
		require.NoError(t, err)
		defer l.Close()
		taken[port] = true
	}
	require.Len(t, taken, 50)
	for range 200 { // more than twice around
		port, err := stabilitytest.FreePort()
		require.NoError(t, err)
		require.False(t, taken[port], port)
	}
}
