#!/bin/sh
# Makes the Debian package: ./dev deb, or
#
#     mkdeb.sh BUILD_DIR OUT_DIR
#
# BUILD_DIR/sluice, its man pages and completions (which it writes itself), and the units of deploy/systemd. What it depends on is
# computed by dpkg-shlibdeps from what it is linked with, and from what it opens (deploy/image/opened). Nothing is started or
# enabled when it is installed: which unit this machine runs is its owner's to say.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
tree=$here/../..

fail() {
    echo "mkdeb: $*" >&2
    exit 1
}

[ $# -eq 2 ] || fail "the form is mkdeb.sh BUILD_DIR OUT_DIR"
[ -f "$1/sluice" ] || fail "there is no $1/sluice; build it first"
command -v dpkg-shlibdeps >/dev/null || fail "there is no dpkg-shlibdeps; install dpkg-dev"
program=$(cd "$1" && pwd)/sluice
mkdir -p "$2"
out=$(cd "$2" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root
umask 022
export LC_ALL=C

version=$("$program" --version | awk 'NR == 1 { print $2 }')
arch=$(dpkg --print-architecture)
install -D -m 755 "$program" "$root/usr/bin/sluice"
strip --remove-section=.comment --remove-section=.note "$root/usr/bin/sluice"

mkdir -p "$root/usr/share/man/man1" "$root/usr/share/bash-completion/completions" "$root/usr/share/zsh/vendor-completions"
"$program" man "$root/usr/share/man/man1"
gzip -9n "$root"/usr/share/man/man1/*.1
"$program" completion bash >"$root/usr/share/bash-completion/completions/sluice"
"$program" completion zsh >"$root/usr/share/zsh/vendor-completions/_sluice"
mkdir -p "$root/lib/systemd/system" "$root/etc/sluice" "$root/usr/share/doc/sluice"
cp "$tree"/deploy/systemd/*.service "$root/lib/systemd/system/"
install -m 644 "$tree/deploy/systemd/gpu.conf" "$root/usr/share/doc/sluice/"
for role in coordinator stage decode serve; do
    printf '# Options of `sluice %s`, a line each, for its unit: man sluice-%s lists them. Example:\n# threads: 8\n' $role $role \
        >"$root/etc/sluice/$role.yaml"
done
chmod 644 "$root"/lib/systemd/system/* "$root"/etc/sluice/*

cp "$tree/deploy/README.md" "$tree/deploy/runbook.md" "$root/usr/share/doc/sluice/"
{
    printf 'Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\nUpstream-Name: sluice\n\nFiles: *\n'
    printf 'Copyright: 2026 the authors of sluice\nLicense: Apache-2.0\n On Debian systems the text of this license is in\n /usr/share/common-licenses/Apache-2.0.\n'
} >"$root/usr/share/doc/sluice/copyright"
date=$(date -R -u -d "@${SOURCE_DATE_EPOCH:-$(stat -c %Y "$program")}")
printf 'sluice (%s) bookworm; urgency=medium\n\n  * Built from the tree.\n\n -- sluice <sluice@localhost.invalid>  %s\n' "$version" "$date" |
    gzip -9n >"$root/usr/share/doc/sluice/changelog.gz"

# ---- What it needs. ----

mkdir -p "$work/debian"
printf 'Source: sluice\n\nPackage: sluice\nArchitecture: any\n' >"$work/debian/control"
needs=$(cd "$work" && dpkg-shlibdeps --ignore-missing-info -O "root/usr/bin/sluice" 2>"$work/said") || fail "$(cat "$work/said")"
needs=${needs#shlibs:Depends=}
opens=
while read -r name; do
    case $name in */*) continue ;; esac # those of a package that it is linked with
    package=$(dpkg-query -S "*/$name" | sed -n '1s/:.*//p')
    [ -n "$package" ] || fail "no package owns $name, which is opened at run time; install it"
    case ", $needs," in *", $package "* | *", $package,"*) ;; *) opens="$opens, $package" ;; esac
done <"$tree/deploy/image/opened"

# ---- The package. ----

mkdir "$root/DEBIAN"
{
    printf 'Package: sluice\nVersion: %s\nArchitecture: %s\nMaintainer: sluice <sluice@localhost.invalid>\n' "$version" "$arch"
    printf 'Installed-Size: %s\n' "$(du -sk --apparent-size "$root" | cut -f1)"
    printf 'Depends: %s%s\nSection: science\nPriority: optional\n' "$needs" "$opens"
    printf 'Description: serving node for Mixture-of-Experts models\n'
    printf ' Prompts are prefilled by a pipeline of nodes that each hold a range of layers\n with all their experts. gRPC in front, UCX inside.\n'
} >"$root/DEBIAN/control"
(cd "$root" && find etc -type f | sort | sed 's|^|/|') >"$root/DEBIAN/conffiles"
(cd "$root" && find usr lib -type f | sort | xargs md5sum) >"$root/DEBIAN/md5sums"
for script in postinst postrm; do
    printf '#!/bin/sh\nset -e\nif [ -d /run/systemd/system ]; then\n    systemctl --system daemon-reload >/dev/null || true\nfi\n' >"$root/DEBIAN/$script"
    chmod 755 "$root/DEBIAN/$script"
done
chmod 644 "$root/DEBIAN/control" "$root/DEBIAN/conffiles" "$root/DEBIAN/md5sums"
dpkg-deb --root-owner-group -Zxz --build "$root" "$out/sluice_${version}_$arch.deb" >/dev/null
echo "$out/sluice_${version}_$arch.deb"
