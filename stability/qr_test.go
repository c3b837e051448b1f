package stability_test

import (
	"bytes"
	"image/png"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/stability"
)

// drawnModules are the dark modules of a code as a terminal shows it, without the
// light frame around it.
func drawnModules(t *testing.T, drawn string) (rows []string) {
	t.Helper()
	var lines [][]rune
	for line := range strings.Lines(drawn) {
		line, ok := strings.CutPrefix(strings.TrimSuffix(line, "\x1b[0m\n"), "\x1b[97;40m")
		require.True(t, ok, "each line has colours of its own: %q", line)
		lines = append(lines, []rune(line))
	}
	const frame = 2
	for y := frame; y < len(lines[0])-frame; y++ {
		var b strings.Builder
		for x := frame; x < len(lines[0])-frame; x++ {
			light := map[rune][2]bool{'█': {true, true}, '▀': {true, false}, '▄': {false, true}, ' ': {}}[lines[y/2][x]][y%2]
			b.WriteByte(map[bool]byte{true: '.', false: '#'}[light])
		}
		rows = append(rows, b.String())
	}
	return rows
}

// imageModules are those of the image.
func imageModules(t *testing.T, q stability.QR) (rows []string) {
	t.Helper()
	raw, err := q.PNG()
	require.NoError(t, err)
	img, err := png.Decode(bytes.NewReader(raw))
	require.NoError(t, err)
	const frame, module = 4, 8
	for y := frame*module + module/2; y < img.Bounds().Dy()-frame*module; y += module {
		var b strings.Builder
		for x := frame*module + module/2; x < img.Bounds().Dx()-frame*module; x += module {
			r, _, _, _ := img.At(x, y).RGBA()
			b.WriteByte(map[bool]byte{true: '.', false: '#'}[r > 0x8000])
		}
		rows = append(rows, b.String())
	}
	return rows
}

// The image is decoded and scanned in the tests of the page.
func TestTerminalDrawsTheCodeOfTheImage(t *testing.T) {
	q := stability.QR{Code: "2@" + strings.Repeat("abcDEF123,", 20)}
	drawn, err := q.Terminal()
	require.NoError(t, err)
	want := imageModules(t, q)
	require.Greater(t, len(want), 40)
	require.Equal(t, want, drawnModules(t, drawn))

	var out strings.Builder
	stability.PrintQR(&out)(q)
	require.Equal(t, "Scan with the phone: Linked devices, Link a device.\n"+drawn+"\n", out.String())
}

func TestCodeThatCannotBeDrawnIsNoSilence(t *testing.T) {
	var out strings.Builder
	stability.PrintQR(&out)(stability.QR{Code: strings.Repeat("x", 4000)})
	require.Contains(t, out.String(), "The code cannot be drawn: stability: draw the code: ")
}
